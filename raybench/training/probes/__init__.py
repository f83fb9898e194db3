"""Questions that need a process of their own: it may crash, run out of memory, or import very heavy libraries."""
