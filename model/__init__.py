"""Networks that turn person crops into embeddings, with their checkpoints, preprocessing and runtimes."""

import importlib
import sys

# OpenVINO's converter reports each use to Google Analytics, from a process that it forks, and keeps an id in
# the home of the user. The converter reports nothing if the module openvino_telemetry cannot be imported.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

# A program that has imported OpenVINO before has the module already. It gets the class that OpenVINO itself
# uses where the module is absent.
if sys.modules["openvino_telemetry"] is not None:
    _stub = importlib.import_module("openvino.tools.ovc.telemetry_stub")
    sys.modules["openvino_telemetry"].Telemetry = _stub.Telemetry  # type: ignore[attr-defined]
