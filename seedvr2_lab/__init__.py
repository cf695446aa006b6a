"""SeedVR2 as a textbook that runs: windows, networks, training recipe and ablations of one-step video restoration.

Importing the package loads nothing heavy; import the room you need (`seedvr2_lab.model.windows`, ...).
"""

__version__ = "0.1.0"
