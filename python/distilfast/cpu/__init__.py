"""What makes a step faster on CPUs: attention's backward, dropout masks, bfloat16 products."""
