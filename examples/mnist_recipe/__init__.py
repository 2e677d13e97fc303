"""What examples/train_mnist.py is made of: the digits, how they are distorted, the options of a run."""
