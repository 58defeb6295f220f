"""Curvature along training: from the points of a sharpness probe to statistics, figures and the report's section."""
