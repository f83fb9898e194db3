"""raybench: does DeepSpeed help my model on my machines, by how much, and am I sure?"""

__version__ = "0.1.0"
