"""From a request to a proven plan: hardware scaling, accuracy scaling, shedding, and the switch-aware objective. allocate.py
is the way in."""
