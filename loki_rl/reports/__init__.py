"""What is told of runs: means, intervals, paired differences, tables, plots and the page that holds them."""
