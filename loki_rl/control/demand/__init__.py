"""From requests counted per second to the demand that may come, as slices with their chances."""
