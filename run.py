"""Runs keras_ft from a checkout: `python run.py --flagfile=configs/binary.cfg`."""

import sys

from keras_ft.__main__ import main

sys.exit(main())
