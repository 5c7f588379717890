"""The kernel "jit": machine code generated for one weight matrix, every non-zero an instruction.

A program computes some output rows on one vector of pixels, from one panel of channels: it loads
each vector of the input once, and adds it to the accumulators of all rows that have a weight there.
The accumulators stay in registers, for which rows they are is written in the instructions. So a
non-zero costs its multiplication, with the weight as the operand in memory, and nothing else: no
offset, no load of the input that only it needs, no end of a row that the processor has to predict.
The same program runs over the vectors of a tile one after the other, which is what pays for its
size. Meanwhile it prefetches the next one, for no processor predicts so far where its instructions
will come from.

The last program of a row computes its epilogue: it adds the residual, applies the activation and
stores the result. Accumulators go through memory only where another panel follows, or where
programs cannot do it (``layout.epilogue_of``).

encoder   instructions as bytes
layout    where the instructions of programs lie, and how programs end
packing   a layer's weights as programs
schedule  candidates and cost model
"""
