#!/bin/sh
# Makes such a store anew in ./store: CHECKOUT=folder of the code PYTHON=its interpreter sh make.sh
set -e
export PYTHONPATH="$CHECKOUT" HF_HUB_OFFLINE=1
"$PYTHON" "$(dirname "$0")/make_inputs.py"
ts4s() { "$PYTHON" -m flows.cli "$@" --storage.uri store --storage.cache_dir cache --spark.master 'local[2]'; }
classifier() {
  ts4s retrain --json --name topics --data.source inputs/rows.tsv --model.source config:inputs/config.json \
    --model.tokenizer inputs/tokenizer --model.max_length 16 --train.batch_size 12 --train.learning_rate 0.01 \
    --train.logical_shards 2 --train.workers 1 --train.epochs 20 "$@"
}
classifier --train.max_steps 30
classifier --train.max_steps 90
ts4s models rollback topics --reason "a look at the version before"
ts4s models promote topics "$(ls store/trained/topics | tail -1)" --reason "the better one after all"
ts4s language-model --json --name novel --data.source inputs/text --data.split_by document --data.window 16 \
  --model.tokenizer_kind word-level --model.vocabulary_size 300 --model.architecture window --model.hidden_size 16 \
  --model.embedding_size 8 --model.context 4 --train.max_steps 40 --train.epochs 40 --train.learning_rate 0.01 \
  --train.logical_shards 2 --train.workers 1 --generate.max_new_tokens 8
ts4s predict --json --model topics --data.source inputs/rows.tsv
