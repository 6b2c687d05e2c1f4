"""Commands: read flags and files, run the search, show and write what it finds."""

import os

# Threads that spin while they wait for each other are several times slower on a busy machine; the
# runtime reads this when torch is loaded, and whoever has set it otherwise keeps their choice.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
