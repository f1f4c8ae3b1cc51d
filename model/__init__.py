"""Method of the paper, one part a file. Nothing in here imports data or util."""

# Label of ignored pixels, as VOC's void; here, because model imports nothing else and data imports it without torch.
IGNORE = 255
