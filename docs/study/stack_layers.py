"""A BERT with twice the layers: its stack of layers twice, one on top of the other, all else kept.

Progressive stacking (Gong et al. 2019, "Efficient Training of BERT by Progressively Stacking"): a deep model that is
trained on from a shallow one is ahead of one trained from random weights.

    python stack_layers.py --model DIRECTORY --output_dir DIRECTORY
"""

from __future__ import annotations

import argparse
import copy

from torch import nn
from transformers import AutoModelForMaskedLM, AutoTokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="directory of a BertForMaskedLM")
    parser.add_argument("--dropout", type=float, default=0.0, help="dropout of states and attention from here on")
    parser.add_argument("--output_dir", required=True)
    arguments = parser.parse_args()

    model = AutoModelForMaskedLM.from_pretrained(arguments.model)
    layers = model.bert.encoder.layer
    model.bert.encoder.layer = nn.ModuleList([*layers, *copy.deepcopy(layers)])
    model.config.num_hidden_layers = len(model.bert.encoder.layer)
    model.config.hidden_dropout_prob = model.config.attention_probs_dropout_prob = arguments.dropout
    model.save_pretrained(arguments.output_dir)
    AutoTokenizer.from_pretrained(arguments.model).save_pretrained(arguments.output_dir)
    print(f"{model.config.num_hidden_layers} layers, {model.num_parameters():,} parameters")


if __name__ == "__main__":
    main()
