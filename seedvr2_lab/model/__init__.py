"""What the network is: windows, rotary positions, attention, transformer, video VAE, diffusion, weights."""
