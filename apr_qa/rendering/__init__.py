"""What the reports share: numbers, groups, and text made safe to show."""
