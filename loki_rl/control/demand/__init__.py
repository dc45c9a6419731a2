"""From requests counted per second to the demand that is worth having capacity for: estimators, forecasts with quantiles,
and the price of capacity."""
