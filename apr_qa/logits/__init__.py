"""What an artifact predicts against what the ground truth predicts: both engines read the same token ids."""
