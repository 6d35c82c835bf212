/* The voting rules of ordering (CONS-32..36) for four validators of equal weight, one of them hostile.

The three honest ones are what they have sent. The hostile one signs whatever helps, so a certificate of a kind exists
as soon as two honest votes of it do. Leaders are hostile too: each view has two proposals (the leader equivocates), and
a proposal's parent is any block, of any earlier view or genesis, that the rules let an honest validator accept at that
moment. Messages are late, lost or reordered at will: who acts on a certificate does so at any time after it could
exist, or never. In which view a validator stands isn't modelled: here it may vote in any, which allows more than the
rules do, and what holds here holds for them.

Safety: whatever is final is a chain, and no final view is nullified; asserted after every step of every run.

Two symmetries keep the states few: the honest validators are sorted by what they sent, and the second proposal of a
view comes after the first.

Each of NULLIFY_AFTER_FINALIZE, FINALIZE_AFTER_NULLIFY, GAP_UNCHECKED, PARENT_UNCHECKED, VOTE_TWICE and SMALL_QUORUM
plants one mistake. */

#ifndef VIEWS
#define VIEWS 3
#endif
#ifdef SMALL_QUORUM
#define ENOUGH 1
#else
#define ENOUGH 2
#endif

/* Blocks are 1..2*VIEWS, 0 is genesis. Those of view v (1..VIEWS) are 2v-1 and 2v. */
#define VIEW_OF(b) (((b) + 1) / 2)
#define UNKNOWN 255

/* What one sent, five bits a view: notarize of the odd block, of the even one; nullify; finalize likewise. */
#define NOTE(b) (1 << (5 * VIEW_OF(b) - 4 - (b) % 2))
#define NULL(v) (4 << (5 * (v) - 5))
#define FINALIZE(b) (8 * NOTE(b))
#define NOTES(v) (3 << (5 * (v) - 5))
#define FINALIZES(v) (8 * NOTES(v))

#define COUNT(bits) (((sent[0] & (bits)) != 0) + ((sent[1] & (bits)) != 0) + ((sent[2] & (bits)) != 0))
#define NOTARISED(b) ((b) == 0 || COUNT(NOTE(b)) >= ENOUGH)
#define NULLIFIED(v) (COUNT(NULL(v)) >= ENOUGH)
#define FINAL(b) (COUNT(FINALIZE(b)) >= ENOUGH)

#ifdef VOTE_TWICE
#define MAY_NOTARIZE(h, b) ((sent[h] & NOTE(b)) == 0)
#else
#define MAY_NOTARIZE(h, b) ((sent[h] & NOTES(VIEW_OF(b))) == 0)
#endif
#ifdef NULLIFY_AFTER_FINALIZE
#define MAY_NULLIFY(h, v) ((sent[h] & NULL(v)) == 0)
#else
#define MAY_NULLIFY(h, v) ((sent[h] & (NULL(v) | FINALIZES(v))) == 0)
#endif
#ifdef FINALIZE_AFTER_NULLIFY
#define MAY_FINALIZE(h, v) ((sent[h] & FINALIZES(v)) == 0)
#else
#define MAY_FINALIZE(h, v) ((sent[h] & (NULL(v) | FINALIZES(v))) == 0)
#endif
#ifdef PARENT_UNCHECKED
#define FIT_AS_PARENT(p) ((p) == 0 || parent[p] != UNKNOWN)
#else
#define FIT_AS_PARENT(p) NOTARISED(p)
#endif

byte parent[2 * VIEWS + 1];
int sent[3];

/* Scratch of one step; zero between steps, so that it adds no states. */
byte h, v, b, p, o;
bit ok;
int kept;

inline where(holds) {  /* else the step is none, and leads back to the same state */
    if
    :: holds
    :: else -> goto nothing
    fi
}

inline between_nullified() {  /* ok: every view above p's and below b's is nullified */
    ok = 1;
#ifndef GAP_UNCHECKED
    v = VIEW_OF(p) + 1;
    do
    :: v < VIEW_OF(b) -> ok = ok && NULLIFIED(v); v++
    :: else -> break
    od;
#endif
    v = 0
}

inline what_is_final_is_a_chain() {
    b = 1;
    do
    :: b <= 2 * VIEWS ->
        if
        :: FINAL(b) ->
            assert(!NULLIFIED(VIEW_OF(b)));
            o = b + 1;
            do
            :: o <= 2 * VIEWS ->
                if
                :: FINAL(o) ->
                    p = o;
                    do
                    :: p > b -> p = parent[p]
                    :: else -> break
                    od;
                    assert(p == b)
                :: else
                fi;
                o++
            :: else -> break
            od
        :: else
        fi;
        b++
    :: else -> break
    od
}

inline in_order(one, two) {
    if
    :: sent[one] > sent[two] -> kept = sent[one]; sent[one] = sent[two]; sent[two] = kept
    :: else
    fi
}

active proctype validators() {
    d_step {
        b = 1;
        do
        :: b <= 2 * VIEWS -> parent[b] = UNKNOWN; b++
        :: else -> break
        od;
        b = 0
    }
    do
    :: atomic {
        select(h : 0 .. 2);
        if
        :: true ->  /* notarize a proposal */
            select(b : 1 .. 2 * VIEWS);
            where(MAY_NOTARIZE(h, b) && (b % 2 == 1 || parent[b - 1] != UNKNOWN));
            if
            :: parent[b] != UNKNOWN -> p = parent[b]
            :: parent[b] == UNKNOWN ->
                select(p : 0 .. 2 * (VIEWS - 1));
                where(p <= 2 * (VIEW_OF(b) - 1))
            fi;
            where(FIT_AS_PARENT(p));
            between_nullified();
            where(ok);
            parent[b] = p;
            sent[h] = sent[h] | NOTE(b)
        :: true ->  /* a timer */
            select(v : 1 .. VIEWS);
            where(MAY_NULLIFY(h, v));
            sent[h] = sent[h] | NULL(v)
        :: true ->  /* a notarisation comes */
            select(b : 1 .. 2 * VIEWS);
            where(NOTARISED(b) && MAY_FINALIZE(h, VIEW_OF(b)));
            sent[h] = sent[h] | FINALIZE(b)
        fi;
        d_step {
            what_is_final_is_a_chain();
            in_order(0, 1);
            in_order(1, 2);
            in_order(0, 1);
            kept = 0
        }
nothing:
        h = 0; v = 0; b = 0; p = 0; o = 0; ok = 0
    }
    od
}
