"""`boxwright convert weights IN OUT`: the call of `jobs.convert`."""

from __future__ import annotations

from collections.abc import Sequence

from boxwright.cli.flags import Parser


def parser() -> Parser:
    made = Parser(
        "convert",
        "Write a network as another kind of weight file: .pt (our checkpoint), .safetensors or .weights (Darknet).",
        usage="%(prog)s weights IN OUT [flags]",
    )
    made.add_argument("what", metavar="weights", choices=("weights",), help="weights: the numbers of a network")
    made.add_argument("source", metavar="IN", help="published .pt, Boxwright .pt, .safetensors or Darknet .weights")
    made.add_argument("target", metavar="OUT", help="its suffix says the kind")
    made.add_argument(
        "--cfg", "--model", dest="model", metavar="CFG", default="", help="cfg or name that a Darknet IN belongs to"
    )
    made.add_argument(
        "--stem", metavar="KIND", choices=("conv6",), help="conv6: the Focus of early releases as a 6x6 convolution"
    )
    return made


def run(argv: Sequence[str]) -> int:
    given = parser().parse_strictly(argv)
    from boxwright.jobs.convert import convert_weights

    network = convert_weights(given["source"], given["target"], model=given["model"], conv6_stem=bool(given["stem"]))
    count = sum(parameter.numel() for parameter in network.parameters())
    print(f"{given['target']}: {count:,} parameters, {len(network.names)} classes, from {given['source']}")
    return 0
