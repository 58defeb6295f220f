"""Power laws of the optimum: fitted, predicted, held out."""
