"""Networks that turn person crops into embeddings, and what travels with them."""

import sys

# OpenVINO's converter would tell Google Analytics of each use, from a process that it forks, and keep an id
# in the user's home. Where this module is not there, it does without.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
