/* Executing a transaction. The text is in svm_execute_body.h; here is what it stands on: values straight in
 * the slots, or over the versions of Block-STM. */
#include "svm_engine_types.h"
#include "svm_blake3.h"
#include "svm_stm.h"

#include <stdlib.h>

static const char *const CODE_NAMES[SVM_CODES] = {
    [SVM_DONE] = "",
    [SVM_OUT_OF_GAS] = "OutOfGas",
    [SVM_FEE_UNFUNDED] = "FeeUnfunded",
    [SVM_INSUFFICIENT_FUNDS] = "InsufficientFunds",
    [SVM_AMOUNT_OVERFLOW] = "AmountOverflow",
    [SVM_TOKEN_UNKNOWN] = "TokenUnknown",
    [SVM_NOT_MINTER] = "NotMinter",
    [SVM_SUPPLY_FIXED] = "SupplyFixed",
    [SVM_SUPPLY_OVERFLOW] = "SupplyOverflow",
    [SVM_VERSION_MISMATCH] = "VersionMismatch",
    [SVM_OBJECT_MISSING] = "ObjectMissing",
    [SVM_OBJECT_DELETED] = "ObjectDeleted",
    [SVM_OBJECT_TOO_LARGE] = "ObjectTooLarge",
    [SVM_OWNERSHIP_MISMATCH] = "OwnershipMismatch",
    [SVM_NOT_OWNED] = "NotOwned",
    [SVM_IMMUTABLE_OBJECT] = "ImmutableObject",
    [SVM_UNDECLARED_ACCESS] = "UndeclaredAccess",
    [SVM_ACCESS_USED] = "AccessUsed",
    [SVM_STAKE_KEY] = "StakeKey",
    [SVM_STAKE_TOO_LOW] = "StakeTooLow",
    [SVM_STAKES_FULL] = "StakesFull",
    [SVM_STAKE_UNKNOWN] = "StakeUnknown",
    [SVM_STAKE_LEAVING] = "StakeLeaving",
    [SVM_STAKE_BOUND] = "StakeBound",
    [SVM_LAST_VALIDATOR] = "LastValidator",
    [SVM_WRONG_CHAIN] = "WrongChain",
    [SVM_EXPIRED] = "Expired",
    [SVM_PAYLOAD_UNKNOWN] = "PayloadUnknown",
    [SVM_LANE_MISMATCH] = "LaneMismatch",
    [SVM_NONCE_USED] = "NonceUsed",
    [SVM_NONCE_GAP] = "NonceGap",
    [SVM_TOKEN_NOT_ACCEPTED] = "TokenNotAccepted",
};

const char *svm_code_name(uint32_t code) { return code < SVM_CODES ? CODE_NAMES[code] : NULL; }

bool svm_worker_init(svm_worker *worker, svm_block *block) {
    memset(worker, 0, sizeof *worker);
    worker->block = block;
    const size_t inputs = (size_t)block->facts.inputs_max + 1;
    worker->objects = malloc(inputs * sizeof *worker->objects);
    worker->raised = malloc(inputs * sizeof *worker->raised);
    worker->written = malloc(inputs * sizeof *worker->written);
    worker->ended = malloc(inputs);
    return worker->objects != NULL && worker->raised != NULL && worker->written != NULL && worker->ended != NULL;
}

void svm_worker_free(svm_worker *worker) {
    svm_arena_free(&worker->arena);
    free(worker->undo);
    free(worker->objects);
    free(worker->raised);
    free(worker->written);
    free(worker->ended);
    free(worker->events);
    free(worker->own);
    free(worker->own_of);
    free(worker->own_seen);
}

/* What a transaction can't do without is asked for before its turn, so that no step of it fails for memory. */
static bool make_room(svm_worker *w, const svm_tx *tx) {
    /* A key is changed once for its place in the list, and a few more times by fees and operations. */
    const uint32_t undo = tx->keys_count + 4 * SVM_OPERATIONS_MAX + 8;
    if (undo > w->undo_room) {
        svm_undo *more = realloc(w->undo, undo * sizeof *more);
        if (more == NULL) {
            return false;
        }
        w->undo = more;
        w->undo_room = undo;
    }
    const uint32_t events = (uint32_t)tx->operations * 256;
    if (events > w->events_room) {
        uint8_t *more = realloc(w->events, events);
        if (more == NULL) {
            return false;
        }
        w->events = more;
        w->events_room = events;
    }
    return true;
}

/* Gas. What would pass the limit uses all of it and fails (GAS-3). */
static bool use_gas(svm_worker *w, uint64_t gas) {
    if (gas > w->gas_limit - w->gas_used) {
        w->detail.code = SVM_OUT_OF_GAS;
        const svm_u128 wanted = (svm_u128)w->gas_used + gas;
        w->detail.first[0] = (uint64_t)wanted;
        w->detail.first[1] = (uint64_t)(wanted >> 64);
        w->detail.second[0] = w->gas_limit;
        w->gas_used = w->gas_limit;
        return false;
    }
    w->gas_used += gas;
    return true;
}

static bool fail(svm_worker *w, enum svm_code code, const uint8_t *id, svm_u128 first, svm_u128 second) {
    w->detail.code = code;
    if (id != NULL) {
        memcpy(w->detail.id, id, SVM_ID);
    }
    w->detail.first[0] = (uint64_t)first;
    w->detail.first[1] = (uint64_t)(first >> 64);
    w->detail.second[0] = (uint64_t)second;
    w->detail.second[1] = (uint64_t)(second >> 64);
    return false;
}

static bool fail_with(svm_worker *w, enum svm_code code, const uint8_t *id, const uint8_t *other) {
    memcpy(w->detail.other, other, SVM_ID);
    return fail(w, code, id, 0, 0);
}

static svm_object *new_object(svm_worker *w, const svm_object *like) {
    svm_object *object = svm_arena_take(&w->arena, sizeof *object);
    if (object == NULL) {
        w->error = SVM_ENGINE_NO_MEMORY;
        w->broken = true;
        return NULL;
    }
    if (like != NULL) {
        *object = *like;
    } else {
        memset(object, 0, sizeof *object);
    }
    return object;
}

static svm_token *new_token(svm_worker *w, const svm_token *like) {
    svm_token *token = svm_arena_take(&w->arena, sizeof *token);
    if (token == NULL) {
        w->error = SVM_ENGINE_NO_MEMORY;
        w->broken = true;
        return NULL;
    }
    if (like != NULL) {
        *token = *like;
    } else {
        memset(token, 0, sizeof *token);
    }
    return token;
}

/* The input that a transaction declares for an object; inputs ascend by id. UINT32_MAX: none. */
static uint32_t find_input(svm_worker *w, const uint8_t *id) {
    const svm_tx *tx = w->tx;
    uint32_t low = 0, high = tx->inputs;
    /* Operations mostly come in the order of their inputs. */
    if (w->next_input < high && svm_same_id(tx->data + tx->inputs_at + w->next_input * SVM_INPUT, id)) {
        return w->next_input++;
    }
    while (low < high) {
        const uint32_t middle = (low + high) / 2;
        const int order = memcmp(tx->data + tx->inputs_at + middle * SVM_INPUT, id, SVM_ID);
        if (order == 0) {
            w->next_input = middle + 1;
            return middle;
        }
        if (order < 0) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return UINT32_MAX;
}

/* Events: emitter, topic, data, as the receipt has them. Room was made for 256 bytes an operation. */
static bool emit(svm_worker *w, const uint8_t *emitter, const char *topic, const uint8_t *data, uint32_t size) {
    const uint32_t topic_size = (uint32_t)strlen(topic);
    const svm_gas_schedule *gas = &w->block->facts.gas;
    if (!use_gas(w, gas->event + gas->event_byte * (topic_size + size))) {
        return false;
    }
    uint8_t *at = w->events + w->events_size;
    memcpy(at, emitter, SVM_ID);
    svm_put_u32(at + SVM_ID, topic_size);
    memcpy(at + SVM_ID + 4, topic, topic_size);
    at += SVM_ID + 4 + topic_size;
    svm_put_u32(at, size);
    memcpy(at + 4, data, size);
    w->events_size = (uint32_t)(at + 4 + size - w->events);
    w->events_count++;
    return true;
}

/* Stakes, as supervm.execution.staking and supervm.execution.election have them. */

enum {
    STAKES_MAX = 256,         /* keys with coins at stake */
    SEATS = 100,              /* of a set, or as many as genesis named */
    UNBONDING_EPOCHS = 14,
    MINIMUM_COINS = 100000,
    STAKE_AMOUNT = SVM_ID,    /* where a record has them */
    STAKE_LEFT = SVM_ID + 16,
    STAKE_GRANTED = SVM_ID + 16 + 8
};

/* What a key has at stake, or what genesis gave it. */
typedef struct {
    svm_u128 amount;
    uint64_t left;
    bool granted;
    bool recorded;   /* there is a record of it */
    bool named;      /* genesis named it */
    uint32_t place;  /* of its record, or where that belongs */
} stake;

static uint32_t stakes_count(const svm_object *stakes) { return stakes != NULL ? svm_get_u16(stakes->data + 1) : 0; }

static const uint8_t *stake_at(const svm_object *stakes, uint32_t place) {
    return stakes->data + SVM_STAKES_HEAD + (size_t)place * SVM_STAKE;
}

/* Of rows that begin with a key and ascend by it: the first that isn't below, and whether it is this key's. */
static bool find_row(const uint8_t *rows, uint32_t count, uint32_t size, const uint8_t *key, uint32_t *place) {
    uint32_t low = 0, high = count;
    while (low < high) {
        const uint32_t middle = (low + high) / 2;
        if (memcmp(rows + (size_t)middle * size, key, SVM_ID) < 0) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    *place = low;
    return low < count && svm_same_id(rows + (size_t)low * size, key);
}

static stake find_stake(const svm_block_facts *facts, const svm_object *stakes, const uint8_t *key) {
    stake found;
    uint32_t place;
    memset(&found, 0, sizeof found);
    found.named = find_row(facts->granted, facts->granted_count, SVM_GRANTED, key, &place);
    found.granted = found.named;
    if (stakes != NULL) {
        found.recorded = find_row(stake_at(stakes, 0), stakes_count(stakes), SVM_STAKE, key, &found.place);
    }
    if (found.recorded) {
        const uint8_t *record = stake_at(stakes, found.place);
        found.amount = svm_get_u128(record + STAKE_AMOUNT);
        found.left = svm_get_u64(record + STAKE_LEFT);
        found.granted = record[STAKE_GRANTED] != 0;
    }
    return found;
}

/* Keys that have coins at stake. */
static uint32_t stakes_used(const svm_object *stakes) {
    uint32_t used = 0;
    for (uint32_t i = 0; i < stakes_count(stakes); i++) {
        used += svm_get_u128(stake_at(stakes, i) + STAKE_AMOUNT) != 0;
    }
    return used;
}

/* The stakes with this record of a key, or without one. NULL: none is left, or there is no memory (`broken`). */
static const svm_object *with_stake(svm_worker *w, const svm_object *stakes, const uint8_t *key, const stake *own,
                                    bool keep) {
    const uint32_t count = stakes_count(stakes), before = own->place;
    const uint32_t after = count - before - (own->recorded ? 1 : 0), now = before + after + (keep ? 1 : 0);
    if (now == 0) {
        return NULL;
    }
    svm_object *next = new_object(w, NULL);
    uint8_t *data = svm_arena_take(&w->arena, SVM_STAKES_HEAD + (size_t)now * SVM_STAKE);
    if (next == NULL || data == NULL) {
        w->error = SVM_ENGINE_NO_MEMORY;
        w->broken = true;
        return NULL;
    }
    next->data = data;
    next->size = SVM_STAKES_HEAD + now * SVM_STAKE;
    data[0] = 1;
    svm_put_u16(data + 1, now);
    data += SVM_STAKES_HEAD;
    if (before != 0) {
        memcpy(data, stake_at(stakes, 0), (size_t)before * SVM_STAKE);
    }
    data += (size_t)before * SVM_STAKE;
    if (keep) {
        memcpy(data, key, SVM_ID);
        svm_put_u128(data + STAKE_AMOUNT, own->amount);
        svm_put_u64(data + STAKE_LEFT, own->left);
        data[STAKE_GRANTED] = own->granted;
        data += SVM_STAKE;
    }
    if (after != 0) {
        memcpy(data, stake_at(stakes, count - after), (size_t)after * SVM_STAKE);
    }
    return next;
}

/* The coins that give a weight of one, and are the least to stake: 100,000. */
static svm_u128 stake_unit(svm_worker *w) {
    const svm_token *native = w->block->slots[w->block->supply_slot].before.token;
    if (native == NULL) {
        w->broken = true;
        return 1;
    }
    svm_u128 unit = MINIMUM_COINS;
    for (uint32_t i = 0; i < native->decimals; i++) {
        unit *= 10;
    }
    return unit;
}

static int heavier(const void *a, const void *b) {
    const svm_u128 one = *(const svm_u128 *)a, other = *(const svm_u128 *)b;
    return one > other ? -1 : one < other;
}

/* Whether these stakes, of which there are some, elect anybody: who has the weight of one and doesn't leave, the
 * heaviest first as far as there are seats, unless their weights pass 64 bits. */
static bool elects_somebody(svm_worker *w, const svm_object *stakes) {
    const svm_block_facts *facts = &w->block->facts;
    const uint32_t count = stakes_count(stakes), seats = facts->granted_count > SEATS ? facts->granted_count : SEATS;
    const svm_u128 unit = stake_unit(w);
    svm_u128 *weights = svm_arena_take(&w->arena, ((size_t)count + facts->granted_count + 1) * sizeof *weights);
    uint32_t found = 0;
    if (weights == NULL) {
        w->error = SVM_ENGINE_NO_MEMORY;
        w->broken = true;
        return true;
    }
    for (uint32_t i = 0; i < count; i++) {
        const uint8_t *record = stake_at(stakes, i);
        uint32_t place;
        if (svm_get_u64(record + STAKE_LEFT) != 0) {
            continue;
        }
        svm_u128 weight = svm_get_u128(record + STAKE_AMOUNT) / unit;
        if (record[STAKE_GRANTED] && find_row(facts->granted, facts->granted_count, SVM_GRANTED, record, &place)) {
            weight += svm_get_u64(facts->granted + (size_t)place * SVM_GRANTED + SVM_ID);
        }
        if (weight != 0) {
            weights[found++] = weight;
        }
    }
    for (uint32_t i = 0; i < facts->granted_count; i++) {
        const uint8_t *member = facts->granted + (size_t)i * SVM_GRANTED;
        uint32_t place;
        if (!find_row(stake_at(stakes, 0), count, SVM_STAKE, member, &place)) {
            weights[found++] = svm_get_u64(member + SVM_ID);
        }
    }
    if (found > seats) {
        qsort(weights, found, sizeof *weights, heavier);
        found = seats;
    }
    svm_u128 sum = 0;
    for (uint32_t i = 0; i < found; i++) {
        sum += weights[i];
    }
    return found != 0 && sum >> 64 == 0;
}

/* The identity of who votes with an ed25519 key (NET-10). */
static void node_of(const uint8_t *key, uint8_t out[SVM_ID]) {
    static const char DOMAIN[] = "supervm/node/v1";
    uint8_t input[sizeof DOMAIN - 1 + 1 + SVM_ID];
    memcpy(input, DOMAIN, sizeof DOMAIN - 1);
    input[sizeof DOMAIN - 1] = 1;
    memcpy(input + sizeof DOMAIN, key, SVM_ID);
    svm_blake3(input, sizeof input, out);
}

static uint8_t *put_versions(uint8_t *out, const svm_version *versions, uint32_t count) {
    svm_put_u16(out, count);
    out += 2;
    for (uint32_t i = 0; i < count; i++) {
        memcpy(out, versions[i].id, SVM_ID);
        svm_put_u64(out + SVM_ID, versions[i].version);
        out += SVM_ID + 8;
    }
    return out;
}

/* The receipt from `created` to `return_value`; nothing where all are empty, or the transaction says it all. `success`: with what operations did. */
static void keep_effects(svm_worker *w, svm_outcome *outcome, bool success) {
    const uint32_t created = success ? w->created_count : 0, deleted = success ? w->deleted_count : 0;
    const uint32_t events = success ? w->events_count : 0;
    const svm_tx *tx = w->tx;
    uint32_t written = 0;
    if (w->owns_all && (created | deleted | events) == 0) { /* all are written, and nothing else is to tell */
        outcome->raised = 1;
        outcome->effects_size += tx->inputs * (SVM_ID + 8u);
        return;
    }
    for (uint32_t i = 0; i < tx->inputs; i++) {
        written += w->written[i] != 0;
    }
    if ((created | deleted | events | written) == 0) {
        return;
    }
    const uint32_t size = SVM_NO_EFFECTS + (created + deleted + written) * (SVM_ID + 8) +
                          (events != 0 ? w->events_size : 0);
    uint8_t *bytes = svm_arena_take(&w->arena, size);
    if (bytes == NULL) {
        w->error = SVM_ENGINE_NO_MEMORY;
        return;
    }
    uint8_t *out = put_versions(bytes, w->created, created);
    svm_put_u16(out, written);
    out += 2;
    for (uint32_t i = 0; i < tx->inputs; i++) {
        if (w->written[i] != 0) {
            memcpy(out, tx->data + tx->inputs_at + i * SVM_INPUT, SVM_ID);
            svm_put_u64(out + SVM_ID, w->written[i]);
            out += SVM_ID + 8;
        }
    }
    out = put_versions(out, w->deleted, deleted);
    svm_put_u16(out, events);
    out += 2;
    if (events != 0) {
        memcpy(out, w->events, w->events_size);
        out += w->events_size;
    }
    svm_put_u32(out, 0); /* return value */
    outcome->effects = bytes;
    outcome->effects_size = size;
}

static void keep_detail(svm_worker *w, svm_outcome *outcome) {
    svm_detail *detail = svm_arena_take(&w->arena, sizeof *detail);
    if (detail == NULL) {
        w->error = SVM_ENGINE_NO_MEMORY;
        return;
    }
    *detail = w->detail;
    outcome->detail = detail;
}

/* Straight on the slots. */

static inline const svm_value *direct_value(svm_worker *w, uint32_t slot) { return &w->block->slots[slot].now; }

static inline svm_value *direct_change(svm_worker *w, uint32_t slot) {
    svm_slot *changed = &w->block->slots[slot];
    if (w->saving) {
        svm_undo *undo = &w->undo[w->undo_count++];
        undo->slot = slot;
        undo->value = changed->now;
    }
    changed->changed |= SVM_CHANGED;
    return &changed->now;
}

/* Before the savepoint: an object with a higher version. */
static inline void direct_raise(svm_worker *w, uint32_t slot, const svm_object *object) {
    svm_slot *raised = &w->block->slots[slot];
    raised->changed |= SVM_RAISED;
    raised->now.object = object;
}

static inline void direct_restore(svm_worker *w, uint32_t slot, svm_value value) { w->block->slots[slot].now = value; }

#define X(name) direct_##name
#include "svm_execute_body.h"
#undef X

void svm_execute_direct(svm_worker *worker, uint32_t index) { direct_execute(worker, index); }

uint32_t svm_operation_size(const uint8_t *at) { return direct_operation_size(at); }

/* Over versions. */

#define X(name) svm_stm_##name
#include "svm_execute_body.h"
#undef X

void svm_execute_optimistic(svm_worker *worker, uint32_t index) { svm_stm_execute(worker, index); }
