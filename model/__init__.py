"""Networks that turn person crops into embeddings, with their checkpoints, preprocessing and runtimes."""

import sys

# OpenVINO's converter reports each use to Google Analytics, from a process that it forks, and keeps an id in
# the home of the user. The converter reports nothing if the module openvino_telemetry cannot be imported.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
