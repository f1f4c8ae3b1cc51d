"""The method: what the paper describes, one part a file. Nothing in here imports data or util."""

# The label of pixels that count nowhere, as VOC's void. Defined here for everybody: model may import from nowhere
# else, and data can import it without torch.
IGNORE = 255
