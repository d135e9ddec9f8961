"""`python -m keras_ft`, the program from wherever Python finds the package."""

import sys

from keras_ft.cli import main

sys.exit(main())
