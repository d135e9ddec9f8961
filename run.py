"""Runs keras_ft from a checkout: `python run.py --flagfile=configs/binary.cfg`."""

import sys

from keras_ft.cli import main

sys.exit(main())
