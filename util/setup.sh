# Sourced by train.sh, test.sh and tests/run.sh: sets `python` to one that has what requirements.txt names.
#   setup REQUIREMENTS            and
#   config_of DATASET             sets `config` to config/DATASET/esda.yaml, or of shapes/notext to config/shapes/notext.yaml
#   folds_of FOLD [key=value ...] sets `folds` to FOLD, or to all that the config's data set has
#   launch_of NPROC               sets `launch` to what stands between python and a script that runs in NPROC processes
# In an active virtual or conda environment that is its own python, and what is missing there is said. Elsewhere .venv
# is made once; .venv/made_with.* hold the requirements it was made with, and are written last.

# glibc hands large blocks back to the system after every operation and asks for them again; on a CPU that costs a
# third of a training step (1.3 against 0.85 s for 32 images of Shapes-5i on one core). These keep them.
export MALLOC_MMAP_THRESHOLD_=4294967296 MALLOC_TRIM_THRESHOLD_=8589934592 MALLOC_TOP_PAD_=268435456

setup() {
    local wanted=$1
    if [ -n "${VIRTUAL_ENV:-}${CONDA_PREFIX:-}" ]; then
        python=python
        "$python" util/runtime/requirements.py "$wanted" || exit 2
        return
    fi
    python=.venv/bin/python
    local made=.venv/made_with.${wanted//\//-}
    if [ -x "$python" ] && cat requirements.txt data/requirements.txt "$wanted" | cmp -s - "$made"; then
        return
    fi
    local maker=${PYTHON:-python3}
    if ! "$maker" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
        echo "error: $maker is not Python 3.10 or newer; name one with PYTHON=/path/to/python3" >&2
        exit 2
    fi
    echo "making .venv and installing $wanted into it (once, a minute or two) ..."
    if ! "$maker" -m venv .venv; then
        echo "error: '$maker -m venv' failed; on Debian and Ubuntu: apt-get install python3-venv" >&2
        exit 2
    fi
    if ! "$python" -m pip install --quiet --disable-pip-version-check -r "$wanted"; then
        echo "error: installing $wanted failed (see above); start again when that is mended" >&2
        exit 2
    fi
    cat requirements.txt data/requirements.txt "$wanted" > "$made"
}

config_of() {
    config=config/$1.yaml
    [[ $1 == */* ]] || config=config/$1/esda.yaml
    if [ ! -f "$config" ]; then
        echo "error: $config: no such file; DATASET is one of: $(cd config && ls -d */ | tr -d / | xargs)" >&2
        exit 2
    fi
}

launch_of() {
    launch=()
    if [[ ! $1 =~ ^[1-9][0-9]*$ ]]; then
        echo "error: NPROC=$1 should be the number of processes, 1 or more" >&2
        exit 2
    fi
    [ "$1" = 1 ] || launch=(-m util.runtime.launch "$1")
}

folds_of() {
    local listed
    listed=$("$python" -m data.folds --config "$config" "${@:2}") || exit 2
    folds=($listed)
    [ "$1" != all ] || return 0
    if [[ " $listed " != *" $1 "* ]]; then
        echo "error: fold '$1' is none of ${listed// /, }, all" >&2
        exit 2
    fi
    folds=("$1")
}
