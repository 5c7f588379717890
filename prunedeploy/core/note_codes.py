"""The codes of notes: what a pass took, refused or found, as an identifier that programs read.

A code never changes its meaning once it has been written to a result's file. The sentence beside it
(``Note.reason``) is for people and may be put in other words at any time.
"""

from __future__ import annotations

from typing import Literal

NoteCode = Literal[
    "unclassified",  # the note was written before notes had codes
    "aligned-channels",  # dead channels stay, to make the layer's width a multiple
    "batchnorm-folded",  # a BatchNorm became part of the weights in front of it
    "batchnorm-kept",  # a BatchNorm cannot become part of the weights in front of it
    "blocks-repacked",  # a layer of dense blocks became one smaller layer a block
    "branch-scattered",  # a branch computes its live rows alone, and a Gather restores the others
    "carries-constants",  # one channel stays to carry constants that meet zero padding
    "channels-cut",  # output channels of a layer were cut
    "concat-part-cut",  # a constant part of a Concat was dropped
    "concat-part-kept",  # a constant part of a Concat has to stay
    "concat-part-padded",  # a constant part of a Concat became a Pad of the part beside it
    "constant-by-range",  # channels are constant because of the range of what comes in
    "constant-operand",  # an operand that is constant for every input became an initializer
    "constant-output",  # an output that is constant for every input became an Expand
    "constants-absorbed",  # constants of input channels became part of a bias, map or channel
    "duplicate-inputs-merged",  # columns of equal input channels were added up
    "gathers-simplified",  # copies through a flattened tensor were removed
    "group-norm-simplified",  # a group norm no longer computes its shapes
    "hidden-units-cut",  # hidden units of a recurrent layer were cut
    "identities-removed",  # nodes that change nothing were removed
    "ir-version-lowered",  # the model was written in an older IR version
    "joined-with-live",  # dead channels stay, because they are joined with others that do not go
    "kept-float32",  # a node stays in float32
    "last-channel",  # a dead channel stays, as a tensor must have one
    "layernorm-fused",  # the nodes of a layer norm became one LayerNormalization
    "layers-int8",  # layers were quantised to int8
    "lengths-folded",  # computed lengths of axes that are known became constants
    "maps-absorbed",  # known feature maps of input channels became a map that is added
    "narrow-cost",  # how far the narrower type moves the outputs
    "no-cost-figures",  # the target has no figures to decide by
    "no-narrow-layer",  # no layer uses its weights on few positions
    "no-newer-form",  # a node has no form in the newer opset asked for
    "no-older-form",  # a node has no form in the opset asked for
    "nodes-float16",  # nodes were converted to float16
    "nodes-folded",  # nodes with constant inputs became initializers
    "nodes-removed",  # nodes that no output needs were removed
    "nodes-rewritten",  # nodes were written in the form of an older opset
    "norm-width-kept",  # a norm whose channels were cut keeps the statistics of its old width
    "not-float32",  # weights are not stored as float32
    "open-shape",  # a size that the decision needs is not known
    "opset-lowered",  # the model was written in an older opset
    "opset-raised",  # the model was written in a newer opset
    "opset-too-new",  # the model's opset is newer than what is known
    "opset-too-old",  # the model's opset lacks the operator that would be needed
    "out-of-range",  # weights exceed the range of the narrower type
    "over-budget",  # a layer stays, because the outputs would be off by more than allowed
    "padding-border",  # constant channels stay, because padding puts another number beside them
    "pinned-axis",  # channels stay, because an operator needs the whole axis
    "reshape-targets-folded",  # computed targets of Reshape became constants
    "reshapes-simplified",  # a chain of Reshape and Transpose became shorter
    "scaled-weights",  # weights are multiplied by an attribute of their operator
    "selections-moved",  # selections are made before their axis is split
    "shapes-split",  # known sizes in computed shapes became constants
    "shared-weights",  # several nodes read the weights
    "slower-on-target",  # the cost model says that the rewrite would be slower on the target
    "table-repeated",  # a large constant became a small table that is repeated
    "two-four",  # a layer has at most two non-zeros in every four input channels
    "unequal-heads",  # dead channels stay, because other heads of attention have fewer of them
    "unknown-type",  # the type of a value is not known
    "unread-but-kept",  # channels that no layer reads stay
    "variant-chosen",  # the variant of the network that was chosen, and what it was compared with
    "weights-near-zero",  # weights up to a bound count as zero
    "weights-rounded",  # weights were rounded to the narrower type
]
