"""What changes when a direction is added, taken away or held: steering, with its effect and its price."""
