# Sourced by train.sh, test.sh, predict.sh and tests/run.sh, from the project's folder.
#   setup REQUIREMENTS   sets `python` to one that has what the file names: an active virtual or conda environment's, or
#                        that of .venv, which is made once, and again when the requirements change
#   usage_if_asked "$@"  prints how the script is called, if it was called with -h or --help
#   start SCRIPT DATASET FOLD|all [key=value ...]   runs train.py or test.py

# glibc hands large blocks back to the system after every operation; on a CPU that is a third of a training step.
export MALLOC_MMAP_THRESHOLD_=4294967296 MALLOC_TRIM_THRESHOLD_=8589934592 MALLOC_TOP_PAD_=268435456

fail() {
    echo "error: $1" >&2
    exit 2
}

setup() {
    local wanted=$1 made=.venv/made_with.${1//\//-} maker=${PYTHON:-python3}
    if [ -n "${VIRTUAL_ENV:-}${CONDA_PREFIX:-}" ]; then
        python=python
        "$python" util/requirements.py "$wanted" || exit 2
        return
    fi
    python=.venv/bin/python
    if cat requirements*.txt data/requirements.txt "$wanted" | cmp -s - "$made"; then return; fi
    "$maker" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null ||
        fail "$maker is not Python 3.10 or newer; name one with PYTHON=/path/to/python3"
    echo "making .venv and installing $wanted into it (once, a minute or two) ..."
    "$maker" -m venv .venv || fail "'$maker -m venv' failed; on Debian and Ubuntu: apt-get install python3-venv"
    "$python" -m pip install --quiet --disable-pip-version-check -r "$wanted" || fail "installing $wanted failed, see above"
    cat requirements*.txt data/requirements.txt "$wanted" > "$made"
}

datasets() {
    (cd config && ls -- */*.yaml | sed '/\/data\.yaml$/d; /\/pretrain\.yaml$/d; s/\.yaml$//; s/\/esda$//')
}

usage_if_asked() {
    if [[ " $* " == *" -h "* || " $* " == *" --help "* ]]; then
        sed -n '2,/^[^#]/s/^# \{0,1\}//p' "${0##*/}"
        printf 'DATASET is one of:\n%s\n' "$(datasets | sed 's/^/  /')"
        exit
    fi
}

# What stands between python and a script that runs in NPROC processes on each of NNODES machines.
launch_of() {
    launch=()
    [[ ${NPROC:-1} =~ ^([1-9][0-9]*|gpu|cpu|auto)$ && ${NNODES:-1} =~ ^[1-9][0-9]*$ ]] ||
        fail "NPROC=${NPROC:-1} processes on each of NNODES=${NNODES:-1} machines: both are numbers from 1 on"
    if [ "${NNODES:-1}" != 1 ]; then
        [[ -n ${MASTER_ADDR:-} && ${NODE_RANK:-} =~ ^(0|[1-9][0-9]*)$ && $NODE_RANK -lt $NNODES ]] ||
            fail "NNODES=$NNODES machines need MASTER_ADDR, the first one's address, and NODE_RANK from 0 to below NNODES"
        launch=(-m torch.distributed.run --nnodes="$NNODES" --node-rank="$NODE_RANK" --master-addr="$MASTER_ADDR"
                --master-port="${MASTER_PORT:-29500}" --nproc-per-node="${NPROC:-1}")
    elif [ "${NPROC:-1}" != 1 ]; then
        launch=(-m torch.distributed.run --standalone --local-addr=127.0.0.1 --nproc-per-node="$NPROC")
    fi
}

start() {
    local script=$1 config=config/$2.yaml fold=$3 stamp
    stamp=$(date +%Y%m%d-%H%M%S)
    [[ $2 == */* ]] || config=config/$2/esda.yaml
    [ -f "$config" ] || fail "$config: no such file; DATASET is one of: $(datasets | xargs)"
    shift 3
    launch_of
    [[ -z ${GPUS:-} || $fold == all && ${#launch[@]} == 0 ]] ||
        fail "GPUS is for all folds, one on each GPU; for one fold take CUDA_VISIBLE_DEVICES=${GPUS%%,*} or NPROC"
    setup requirements.txt
    if [[ $config == config/emoji* ]]; then setup requirements-emoji.txt; fi
    if [ -f "${config%/*}/data.yaml" ]; then "$python" -m data.shapes.make "${config%/*}/data.yaml"; fi
    if [ "$fold" = all ]; then
        exec "$python" -m util.training.folds ${launch[@]+"${launch[@]}"} "$script" --config "$config" run="$stamp" "$@"
    fi
    exec "$python" ${launch[@]+"${launch[@]}"} "$script" --config "$config" fold="$fold" run="$stamp" "$@"
}
