"""What train_own_images.py keeps beside it: reading a folder of pictures, and a picture of how the training went."""
