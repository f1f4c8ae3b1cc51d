# Sourced by train.sh, test.sh and tests/run.sh.
#   setup REQUIREMENTS             sets `python` to one that has what the file names
#   usage_if_asked ["$@"]          prints how the script is called, if it was called with -h or --help
#   config_of DATASET              sets `config` to config/DATASET/esda.yaml, or of shapes/notext to config/shapes/notext.yaml
#   folds_of FOLD [key=value ...]  sets `folds` to FOLD, or to all that the config's data set has
#   launch_of                      sets `launch` to what stands between python and a script that runs in NPROC processes on NNODES machines
#   run COMMAND ...                runs a command that gets the signals which this script gets
#   start SCRIPT DATASET FOLD [key=value ...]  runs train.py or test.py on FOLD, or on all folds and then shows their table;
#                                  with GPUS=0,1 the folds run side by side (util/training/folds.py)
# In an active virtual or conda environment, python is that environment's, and what is missing there is an error.
# Elsewhere .venv is made once; .venv/made_with.* hold the requirements it was made with, and are written last.

# glibc hands large blocks back to the system after every operation and asks for them again; on a CPU that costs a
# third of a training step (1.3 against 0.85 s for 32 images of Shapes-5i on one core). These keep them.
export MALLOC_MMAP_THRESHOLD_=4294967296 MALLOC_TRIM_THRESHOLD_=8589934592 MALLOC_TOP_PAD_=268435456

setup() {
    local wanted=$1
    if [ -n "${VIRTUAL_ENV:-}${CONDA_PREFIX:-}" ]; then
        python=python
        "$python" util/requirements.py "$wanted" || exit 2
        return
    fi
    python=.venv/bin/python
    local made=.venv/made_with.${wanted//\//-}
    if [ -x "$python" ] && cat requirements*.txt data/requirements.txt "$wanted" | cmp -s - "$made"; then
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
    cat requirements*.txt data/requirements.txt "$wanted" > "$made"
}

configs() { (cd config && ls -- */*.yaml 2>/dev/null | sed 's/\.yaml$//' | grep -v '/data$\|/pretrain$'); }

usage_if_asked() {
    local argument
    for argument in "$@"; do
        if [[ $argument == -h || $argument == --help ]]; then
            sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$(basename "$0")"
            echo
            echo "DATASET is one of:"
            configs | sed 's|/esda$||; s/^/  /'
            exit 0
        fi
    done
}

nearest() {
    "${PYTHON:-python3}" -c 'import difflib, sys
print(*difflib.get_close_matches(sys.argv[1].lower(), sys.argv[2:], 1, 0))' "$@" 2>/dev/null || true
}

config_of() {
    local name=$1 sets known near
    name=${name#config/} name=${name%.yaml}  # the file's own path is a name, too
    [[ $name == */* ]] || name=$name/esda
    config=config/$name.yaml
    [ ! -f "$config" ] || return 0
    sets=$(configs | sed 's|/.*||' | sort -u)
    if grep -qxF -- "${name%%/*}" <<< "$sets"; then
        known=$(configs | grep "^${name%%/*}/")
        near=$(nearest "$name" $known)
        echo "error: $config: no such file; the configs of ${name%%/*} are $(xargs <<< "$known")${near:+; did you mean $near?}" >&2
    else
        near=$(nearest "${name%%/*}" $sets)
        echo "error: $config: no such file; DATASET is one of: $(xargs <<< "$sets")${near:+; did you mean $near?}" >&2
    fi
    exit 2
}

launch_of() {
    local variable
    launch=()
    for variable in NPROC NNODES; do
        if [[ ! ${!variable:-1} =~ ^[1-9][0-9]*$ ]]; then
            echo "error: $variable=${!variable} should be a whole number, 1 or more" >&2
            exit 2
        fi
    done
    if [ -n "${GPUS:-}" ] && [ "${NPROC:-1}${NNODES:-1}" != 11 ]; then
        echo "error: GPUS is for a fold on each GPU and NPROC for one fold on several; leave one of them away" >&2
        exit 2
    fi
    if [ "${NNODES:-1}" != 1 ]; then
        if [[ -z ${MASTER_ADDR:-} || ! ${NODE_RANK:-} =~ ^[0-9]+$ ]]; then
            echo "error: NNODES=$NNODES machines need MASTER_ADDR, the first one's address, and NODE_RANK from 0 on" >&2
            exit 2
        fi
        launch=(-m util.runtime.torchrun --nnodes="$NNODES" --node-rank="$NODE_RANK" --master-addr="$MASTER_ADDR"
                --master-port="${MASTER_PORT:-29500}" --nproc-per-node="${NPROC:-1}")
    elif [ "${NPROC:-1}" != 1 ]; then
        launch=(-m util.runtime.torchrun --standalone --local-addr=127.0.0.1 --nproc-per-node="$NPROC")
    fi
}

run() {
    local status=0 child
    "$@" &
    child=$!
    trap 'kill -INT "$child" 2>/dev/null || true' INT
    trap 'kill -TERM "$child" 2>/dev/null || true' TERM
    wait "$child" || status=$?
    while kill -0 "$child" 2>/dev/null; do  # a signal has ended the wait, not the command
        status=0
        wait "$child" || status=$?
    done
    trap - INT TERM
    return "$status"
}

folds_of() {
    local listed
    listed=$("$python" -m data.folds --config "$config" "${@:2}") || exit 2
    folds=($listed)
    [ "$1" != all ] || return 0
    if ! grep -qxF -- "$1" <<< "${listed// /$'\n'}"; then
        echo "error: fold '$1' is none of ${listed// /, }, all" >&2
        exit 2
    fi
    folds=("$1")
}

start() {
    local script=$1 dataset=$2 fold=$3 stamp k command
    shift 3
    config_of "$dataset"
    launch_of
    setup requirements.txt
    folds_of "$fold" "$@"
    if [[ $dataset == shapes* ]]; then "$python" -m data.shapes.make; fi
    stamp=$(date +%Y%m%d-%H%M%S)
    if [[ -n ${GPUS:-} && " $*" != *" dry_run=true"* ]]; then
        if [ "$fold" != all ]; then
            echo "error: GPUS is for all folds; for one, CUDA_VISIBLE_DEVICES=${GPUS%%,*} chooses its GPU" >&2
            exit 2
        fi
        exec "$python" -m util.training.folds --gpus "$GPUS" --folds "${folds[*]}" "$script" --config "$config" \
            run="$stamp" "$@"
    fi
    for k in "${folds[@]}"; do
        command=("$python" ${launch[@]+"${launch[@]}"} "$script" --config "$config" fold="$k" run="$stamp" "$@")
        [ "$fold" = all ] || exec "${command[@]}"
        run "${command[@]}"
    done
    [[ " $*" == *" dry_run=true"* ]] || "$python" -m util.results.table --config "$config" run="$stamp" "$@"
}
