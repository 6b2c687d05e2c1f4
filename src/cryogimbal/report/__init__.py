"""Pictures of maps, poses and runs. Each ``plot_*`` writes one PNG; nothing is shown on a screen.

matplotlib is imported where a figure is made, so that commands that draw nothing do not wait for it.
"""
