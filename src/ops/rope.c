/* Rotary embedding in place: pairs (j, j + rot/2) of each head turn by the angle of their position. Su et al. 2021, arXiv:2104.09864, eq. 34.
 * A rotation's transpose is its inverse, so backward is the same kernel with the sine negated.
 * i[0] heads, i[1] head_dim, i[2] rotated part, i[3] number of the table. Tables come with the rows. */
#include "ops/op.h"

static lora_status turn(lora__exec *e, lora_view x, int64_t inverse)
{
	const lora__node *n = e->node;
	const lora__angles *t = &e->rows->angles[n->i[3]];
	lora_call c = lora__prim(LORA_PRIM_ROPE, 4);
	c.v[0] = x;
	c.v[1] = lora__view2(t->cos, lora__wide(e->real), t->n, n->i[2] / 2, n->i[2] / 2);
	c.v[2] = lora__view2(t->sin, lora__wide(e->real), t->n, n->i[2] / 2, n->i[2] / 2);
	c.v[3] = lora__view1(e->rows->positions, LORA_I32, e->rows->n);
	c.i[0] = n->i[0], c.i[1] = n->i[1], c.i[2] = n->i[2], c.i[3] = inverse;
	return lora__run(e->ctx, &c);
}

static lora_status forward(lora__exec *e)
{
	lora_status st = e->out[0].data == e->in[0].data ? LORA_OK : lora__copy(e->ctx, e->out[0], e->in[0]);
	return st ? st : turn(e, e->out[0], 0);
}

static lora_status backward(lora__exec *e)
{
	lora_status st = LORA_OK;
	if (e->din_beta[0] != 0) {
		/* add: turn dout (nobody reads it after us) and add it */
		if ((st = turn(e, e->dout[0], 1))) return st;
		return lora__axpby(e->ctx, 1.0, e->dout[0], 1.0, e->din[0]);
	}
	if (e->din[0].data != e->dout[0].data) st = lora__copy(e->ctx, e->din[0], e->dout[0]);
	return st ? st : turn(e, e->din[0], 1);
}

const lora__op lora__op_rope = { .m = { "rope", "rotary position embedding", "arXiv:2104.09864 eq. 34", NULL }, .flags = LORA__OP_INPLACE,
	.forward = forward, .backward = backward };
