"""What happens inside a forward pass: values of every stage, its statistics, and how long it took."""
