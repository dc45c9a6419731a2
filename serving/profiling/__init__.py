"""What a profile comes from: models timed in isolation, measured on labelled data, and as a whole plane serves them."""
