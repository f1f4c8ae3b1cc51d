"""What the model costs in time, memory and arithmetic, beside the same work done the way the released code does it."""
