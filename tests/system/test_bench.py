"""The commands of the bench are valid, and its rows read the right figures."""

import json
import math
import json
