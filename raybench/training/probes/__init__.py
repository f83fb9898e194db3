"""What a process of its own tells of libraries and links: their imports may crash or hang, and take seconds."""
