"""What the documentation's pages do not show of their programs: the files beside them, as small as they can be."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

PAGE = "<!doctype html><title>stand-in</title>"


@dataclass(frozen=True)
class Beside:
    """Files by their path beside the program; `package`: the directory that makes it a module of a package."""

    files: dict[str, str] = field(default_factory=dict)
    package: str = ""
    sandbox: str = ""  # a function that starts a sandbox, which the program calls in its containers alone


_AGENT = {
    "__init__.py": "",
    "src/__init__.py": "",
    "src/edges.py": "",
    "src/nodes.py": "",
    "src/retrieval.py": "",
    "src/common.py": (
        "import modal\n"
        "PYTHON_VERSION = '3.11'\n"
        "COLOR = {'HEADER': '', 'GREEN': '', 'ENDC': ''}\n"
        "image = modal.Image.debian_slim(python_version=PYTHON_VERSION).pip_install('langgraph', 'langchain-openai')\n"
    ),
}
_PEER = "class ModalWebRtcPeer: pass\nclass ModalWebRtcSignalingServer: pass\n"

BESIDE = {
    "agent": Beside(_AGENT, "codelangchain", "create_sandbox"),
    "comfyapp": Beside({"workflow_api.json": "{}"}),
    "dbt_duckdb": Beside(
        {
            "sample_proj_duckdb_s3/profiles.yml": "stand_in: {target: dev, outputs: {dev: {type: duckdb}}}\n",
            "sample_proj_duckdb_s3/dbt_project.yml": "name: stand_in\nprofile: stand_in\n",
        }
    ),
    "diffusers_lora_finetune": Beside({"assets/index.html": PAGE, "instance_example_urls.txt": ""}),
    "doc_ocr_webapp": Beside({"doc_ocr_frontend/index.html": PAGE}),
    "esm3": Beside({"frontend/index.html": PAGE}),
    "fasthtml_checkboxes": Beside(
        {"__init__.py": "", "constants.py": "N_CHECKBOXES = 100\n", "styles.css": ""}, "boxes"
    ),
    "hp_sweep_gpt": Beside({"src/__init__.py": "", "assets/index.html": PAGE}),
    "image_to_video": Beside({"frontend/index.html": PAGE}),
    "modal_tailscale": Beside({"entrypoint.sh": '#!/bin/sh\nexec "$@"\n'}),
    "serve_streamlit": Beside({"app.py": ""}),
    "text_to_image": Beside({"frontend/index.html": PAGE}),
    "webcam": Beside({"webcam/index.html": PAGE}),
    "webrtc_yolo": Beside(
        {"__init__.py": "", "modal_webrtc.py": _PEER, "yolo.py": "", "frontend/index.html": PAGE}, "rtc"
    ),
}


def beside(program: str) -> Beside:
    return BESIDE.get(program, Beside())


def lay_out(program: Path, directory: Path) -> Path:
    """A copy of the program, with what belongs beside it; the program itself is unchanged."""
    wanted = beside(program.stem)
    place = directory / program.stem / wanted.package if wanted.package else directory / program.stem
    place.mkdir(parents=True, exist_ok=True)
    for name, text in wanted.files.items():
        path = place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    copy = place / program.name
    copy.write_bytes(program.read_bytes())
    return copy
