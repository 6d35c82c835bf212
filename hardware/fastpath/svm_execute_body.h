/* One transaction's turn, as supervm.execution has it. Included twice: X(value), X(change), X(raise) and X(restore)
 * say where values are. Functions of operations give false where the transaction fails; `w->detail` says why.
 * No include guard: that is the point. */

static svm_u128 X(balance)(svm_worker *w, uint32_t slot, bool native) {
    const svm_value *value = X(value)(w, slot);
    return native ? svm_join(value->account.low, value->account.high)
                  : svm_join(value->balance.low, value->balance.high);
}

static void X(set_balance)(svm_worker *w, uint32_t slot, bool native, svm_u128 amount) {
    svm_value *value = X(change)(w, slot);
    if (native) {
        value->account.low = (uint64_t)amount;
        value->account.high = (uint64_t)(amount >> 64);
    } else {
        value->balance.low = (uint64_t)amount;
        value->balance.high = (uint64_t)(amount >> 64);
    }
}

/* Credits can't overflow: no supply does. */
static void X(add)(svm_worker *w, uint32_t slot, bool native, svm_u128 amount) {
    const svm_u128 before = X(balance)(w, slot, native), after = before + amount;
    if (after < before) {
        w->broken = true;
    }
    X(set_balance)(w, slot, native, after);
}

static void X(subtract)(svm_worker *w, uint32_t slot, bool native, svm_u128 amount) {
    const svm_u128 before = X(balance)(w, slot, native);
    if (before < amount) {
        w->broken = true;
    }
    X(set_balance)(w, slot, native, before - amount);
}

static void X(rollback)(svm_worker *w) {
    w->saving = false;
    while (w->undo_count > 0) {
        const svm_undo *undo = &w->undo[--w->undo_count];
        X(restore)(w, undo->slot, undo->value);
    }
    for (uint32_t i = 0; i < w->tx->inputs; i++) {
        if (w->raised[i] != NULL) { /* an operation may have rewritten it */
            w->raised[i]->data = w->objects[i]->data;
            w->raised[i]->size = w->objects[i]->size;
        }
    }
}

/* Whether an input is an Owned object of the sender that stands at its declared version. */
static inline bool X(is_own)(const svm_object *object, const uint8_t *declared, const uint8_t *sender) {
    return object != NULL && object->kind == SVM_OWNED && !object->deleted &&
           object->version == svm_get_u64(declared + SVM_ID) && svm_same_id(object->owner, sender);
}

/* The inputs' objects, as they stand before the turn; objects lie anywhere in memory, so they are looked at once.
 * Where all are the sender's own and at their versions, as is common, no step asks it of each again. */
static void X(find_objects)(svm_worker *w, const uint32_t *input_slots) {
    const svm_tx *tx = w->tx;
    const uint8_t *declared = tx->data + tx->inputs_at, *sender = tx->data + SVM_AT_SENDER;
    uint64_t bytes = 0;
    bool all = true;
    for (uint32_t i = 0; i < tx->inputs; i++, declared += SVM_INPUT) {
        const svm_object *object = w->objects[i] = X(value)(w, input_slots[i])->object;
        if (all && X(is_own)(object, declared, sender)) {
            bytes += object->size;
        } else {
            all = false;
        }
    }
    w->owns_all = all;
    w->owned_bytes = bytes;
}

/* Lane by the first matching rule of EXEC-10; of what no lane takes, the lane asked for. */
static uint8_t X(lane)(const svm_worker *w) {
    const svm_tx *tx = w->tx;
    if (tx->lane != SVM_AUTO) {
        return tx->lane;
    }
    if (tx->kind != SVM_PAYLOAD_NATIVE || tx->moves_supply) {
        return SVM_ORDERED;
    }
    bool owned = w->owns_all;
    for (uint32_t i = 0; i < tx->inputs && !w->owns_all; i++) {
        const svm_object *object = w->objects[i];
        if (object == NULL || object->deleted || object->kind == SVM_SHARED) {
            return SVM_ORDERED;
        }
        if (object->kind == SVM_OWNED) {
            if (!svm_same_id(object->owner, tx->data + SVM_AT_SENDER)) {
                return SVM_ORDERED;
            }
            owned = true;
        }
    }
    return owned || tx->transfers ? SVM_FAST : SVM_ORDERED;
}

static bool X(check_nonce)(svm_worker *w, uint64_t nonce, uint64_t expected) {
    if (nonce == expected) {
        return true;
    }
    return fail(w, nonce < expected ? SVM_NONCE_USED : SVM_NONCE_GAP, NULL, nonce, expected);
}

/* False with the code of a void outcome. */
static bool X(check_turn)(svm_worker *w, uint32_t payer_slot) {
    const svm_tx *tx = w->tx;
    const svm_block_facts *facts = &w->block->facts;
    const uint64_t expiry = svm_get_u64(tx->data + SVM_AT_EXPIRY);
    if (!svm_same_id(tx->data + SVM_AT_CHAIN, facts->chain_id)) {
        return fail(w, SVM_WRONG_CHAIN, tx->data + SVM_AT_CHAIN, 0, 0);
    }
    if (expiry != 0 && expiry < facts->epoch) {
        return fail(w, SVM_EXPIRED, NULL, expiry, facts->epoch);
    }
    if (tx->lane == SVM_PRIVATE) {
        return fail(w, SVM_LANE_MISMATCH, NULL, 0, 0);
    }
    if (tx->kind != SVM_PAYLOAD_NATIVE) {
        return fail(w, SVM_PAYLOAD_UNKNOWN, NULL, tx->kind, 0);
    }
    if (!X(check_nonce)(w, svm_get_u64(tx->data + SVM_AT_NONCE), X(value)(w, w->slots[0])->account.nonce)) {
        return false;
    }
    if (tx->sponsored && !X(check_nonce)(w, svm_get_u64(tx->data + SVM_AT_SPONSOR_NONCE),
                                         X(value)(w, payer_slot)->account.sponsor_nonce)) {
        return false;
    }
    if (!svm_same_id(tx->data + SVM_AT_GAS_TOKEN, svm_zeros)) {
        return fail(w, SVM_TOKEN_NOT_ACCEPTED, tx->data + SVM_AT_GAS_TOKEN, 0, 0);
    }
    return true;
}

/* Each Owned input of the sender that stands at its declared version gets the next one (EXEC-2). */
static void X(raise_versions)(svm_worker *w, const uint32_t *input_slots) {
    const svm_tx *tx = w->tx;
    const uint8_t *declared = tx->data + tx->inputs_at, *sender = tx->data + SVM_AT_SENDER;
    svm_object *next = svm_arena_take(&w->arena, tx->inputs * sizeof *next);
    if (next == NULL) {
        w->error = SVM_ENGINE_NO_MEMORY; /* what stands of the inputs must still be set */
        w->broken = true;
    }
    for (uint32_t i = 0; i < tx->inputs; i++, declared += SVM_INPUT) {
        const svm_object *object = w->objects[i];
        w->raised[i] = NULL;
        w->written[i] = 0;
        w->ended[i] = 0;
        if (next == NULL || (!w->owns_all && !X(is_own)(object, declared, sender))) {
            continue;
        }
        *next = *object;
        w->written[i] = ++next->version;
        w->raised[i] = next;
        X(raise)(w, input_slots[i], next++);
    }
}

static bool X(check_input)(svm_worker *w, const uint8_t *declared, const svm_object *object) {
    const uint8_t access = declared[SVM_ID + 8];
    if (object == NULL) {
        return fail(w, SVM_OBJECT_MISSING, declared, 0, 0);
    }
    if (object->deleted) {
        return fail(w, SVM_OBJECT_DELETED, declared, 0, 0);
    }
    const uint64_t stated = svm_get_u64(declared + SVM_ID);
    const uint64_t version = object->kind == SVM_SHARED ? svm_get_u64(object->owner) : object->version;
    if (stated != version) {
        return fail(w, SVM_VERSION_MISMATCH, declared, version, stated);
    }
    if (object->kind == SVM_OWNED && !svm_same_id(object->owner, w->tx->data + SVM_AT_SENDER)) {
        return fail_with(w, SVM_OWNERSHIP_MISMATCH, declared, object->owner);
    }
    if (object->kind == SVM_IMMUTABLE && access != SVM_READ) {
        return fail(w, SVM_IMMUTABLE_OBJECT, declared, access, 0);
    }
    if (object->kind == SVM_SHARED && access > SVM_WRITE) {
        return fail(w, SVM_NOT_OWNED, declared, access, 0);
    }
    return true;
}

static bool X(use_inputs)(svm_worker *w) {
    const svm_tx *tx = w->tx;
    const svm_gas_schedule *gas = &w->block->facts.gas;
    if (w->owns_all) { /* then every check passes, and where the gas of all is there, that of each is */
        const svm_u128 each = (svm_u128)gas->entry_read + gas->object_mutate;
        const svm_u128 sum = each * tx->inputs + (svm_u128)gas->entry_write_byte * w->owned_bytes;
        if (sum <= w->gas_limit - w->gas_used) {
            w->gas_used += (uint64_t)sum;
            return true;
        }
    }
    for (uint32_t i = 0; i < tx->inputs; i++) {
        if (!use_gas(w, gas->entry_read)) {
            return false;
        }
        if (w->written[i] != 0 &&
            !use_gas(w, gas->object_mutate + gas->entry_write_byte * w->objects[i]->size)) {
            return false;
        }
    }
    for (uint32_t i = 0; i < tx->inputs; i++) {
        if (!X(check_input)(w, tx->data + tx->inputs_at + i * SVM_INPUT, w->objects[i])) {
            return false;
        }
    }
    return true;
}

/* An entry that wasn't there, with `bytes` of data or symbol. */
static bool X(use_new_entry)(svm_worker *w, uint64_t bytes) {
    const svm_gas_schedule *gas = &w->block->facts.gas;
    return use_gas(w, gas->entry_write + gas->entry_new + (gas->entry_write_byte + gas->entry_new_byte) * bytes);
}

static bool X(use_entry)(svm_worker *w) {
    return use_gas(w, w->block->facts.gas.entry_read + w->block->facts.gas.entry_write);
}

/* The only debit of an operation. `carry`: the amount is 2^128 or more. */
static bool X(debit)(svm_worker *w, uint32_t slot, const uint8_t *token, svm_u128 amount, uint64_t carry) {
    const bool native = svm_same_id(token, svm_zeros);
    if (carry != 0) {
        fail(w, SVM_AMOUNT_OVERFLOW, NULL, amount, 0);
        w->detail.first[2] = carry;
        return false;
    }
    const svm_u128 have = X(balance)(w, slot, native);
    if (have < amount) {
        return fail(w, SVM_INSUFFICIENT_FUNDS, token, amount, have);
    }
    X(subtract)(w, slot, native, amount);
    return true;
}

static bool X(transfer)(svm_worker *w, const uint8_t *at, const uint32_t **slots) {
    const uint8_t *token = at + 1, *outputs = at + 35;
    const uint32_t count = svm_get_u16(at + 33);
    const bool native = svm_same_id(token, svm_zeros);
    const uint32_t from = native ? w->slots[0] : *(*slots)++;
    const uint32_t *to = *slots;
    svm_u128 sum = 0;
    uint64_t carry = 0;

    *slots += count;
    if (!native && !X(use_entry)(w)) {
        return false;
    }
    if (!use_gas(w, w->block->facts.gas.credit * count)) {
        return false;
    }
    for (uint32_t i = 0; i < count; i++) {
        const svm_u128 amount = svm_get_u128(outputs + i * SVM_OUTPUT + SVM_ID);
        sum += amount;
        carry += sum < amount;
    }
    if (!X(debit)(w, from, token, sum, carry)) {
        return false;
    }
    for (uint32_t i = 0; i < count; i++) {
        const svm_u128 amount = svm_get_u128(outputs + i * SVM_OUTPUT + SVM_ID);
        if (amount != 0) {
            X(add)(w, to[i], native, amount);
        }
    }
    return true;
}

/* Names of what was made are among the block's keys. */
static const uint8_t *X(id_of)(const svm_worker *w, uint32_t slot) {
    return w->block->keys[w->block->slots[slot].key].id;
}

static bool X(create_token)(svm_worker *w, const uint8_t *at, const uint32_t **slots) {
    const uint32_t record = *(*slots)++, balance = *(*slots)++;
    const uint32_t symbol = svm_get_u32(at + 1);
    const uint8_t *rest = at + 5 + symbol; /* decimals, supply, fixed */
    if (!X(use_new_entry)(w, symbol) || !use_gas(w, w->block->facts.gas.credit)) {
        return false;
    }
    if (X(value)(w, record)->token != NULL) {
        w->broken = true;
    }
    const uint8_t *id = X(id_of)(w, record);
    if (!emit(w, id, "token.created", rest + 1, 16)) {
        return false;
    }
    svm_token *token = new_token(w, NULL);
    if (token == NULL) {
        return true;
    }
    memcpy(token->symbol, at + 5, symbol);
    token->symbol_size = (uint8_t)symbol;
    token->decimals = rest[0];
    token->supply = svm_get_u128(rest + 1);
    token->fixed = rest[17];
    memcpy(token->minter, w->tx->data + SVM_AT_SENDER, SVM_ID);
    X(change)(w, record)->token = token;
    X(add)(w, balance, false, token->supply);
    return true;
}

static bool X(mint)(svm_worker *w, const uint8_t *at, const uint32_t **slots) {
    const uint32_t record = *(*slots)++, balance = *(*slots)++;
    const uint8_t *id = at + 1, *to = at + 1 + SVM_ID;
    const svm_u128 amount = svm_get_u128(to + SVM_ID);
    if (!X(use_entry)(w) || !use_gas(w, w->block->facts.gas.credit)) {
        return false;
    }
    const svm_token *token = X(value)(w, record)->token;
    if (token == NULL) {
        return fail(w, SVM_TOKEN_UNKNOWN, id, 0, 0);
    }
    if (token->fixed) {
        return fail(w, SVM_SUPPLY_FIXED, id, 0, 0);
    }
    if (!svm_same_id(token->minter, w->tx->data + SVM_AT_SENDER)) {
        return fail_with(w, SVM_NOT_MINTER, id, token->minter);
    }
    const svm_u128 supply = token->supply + amount;
    if (supply < amount) {
        fail(w, SVM_SUPPLY_OVERFLOW, NULL, supply, 0);
        w->detail.first[2] = 1;
        return false;
    }
    if (!emit(w, id, "token.minted", to, SVM_ID + 16)) {
        return false;
    }
    svm_token *next = new_token(w, token);
    if (next == NULL) {
        return true;
    }
    next->supply = supply;
    X(change)(w, record)->token = next;
    X(add)(w, balance, svm_same_id(id, svm_zeros), amount);
    return true;
}

static bool X(burn)(svm_worker *w, const uint8_t *at, const uint32_t **slots) {
    const uint32_t record = *(*slots)++, balance = *(*slots)++;
    const uint8_t *id = at + 1;
    const svm_u128 amount = svm_get_u128(at + 1 + SVM_ID);
    uint8_t data[SVM_ID + 16];
    if (!svm_same_id(id, svm_zeros) && !X(use_entry)(w)) {
        return false;
    }
    if (!X(use_entry)(w)) {
        return false;
    }
    const svm_token *token = X(value)(w, record)->token;
    if (token == NULL) {
        return fail(w, SVM_TOKEN_UNKNOWN, id, 0, 0);
    }
    memcpy(data, w->tx->data + SVM_AT_SENDER, SVM_ID);
    memcpy(data + SVM_ID, at + 1 + SVM_ID, 16);
    if (!emit(w, id, "token.burned", data, sizeof data) || !X(debit)(w, balance, id, amount, 0)) {
        return false;
    }
    svm_token *next = new_token(w, token);
    if (next == NULL) {
        return true;
    }
    if (next->supply < amount) {
        w->broken = true;
    }
    next->supply -= amount;
    X(change)(w, record)->token = next;
    return true;
}

static bool X(check_size)(svm_worker *w, uint32_t size) {
    const uint32_t most = w->block->facts.object_bytes_max;
    return size <= most || fail(w, SVM_OBJECT_TOO_LARGE, NULL, size, most);
}

static bool X(create_object)(svm_worker *w, const uint8_t *at, const uint32_t **slots) {
    const uint32_t slot = *(*slots)++, size = svm_get_u32(at + 38);
    if (!X(check_size)(w, size) || !X(use_new_entry)(w, size)) {
        return false;
    }
    if (X(value)(w, slot)->object != NULL) {
        w->broken = true;
    }
    svm_object *object = new_object(w, NULL);
    if (object == NULL) {
        return true;
    }
    object->version = 1;
    object->kind = at[5];
    object->type = svm_get_u32(at + 1);
    object->size = size;
    object->data = at + 42;
    if (object->kind == SVM_SHARED) {
        svm_put_u64(object->owner, 1);
    } else {
        memcpy(object->owner, at + 6, SVM_ID);
    }
    X(change)(w, slot)->object = object;
    w->created[w->created_count].id = X(id_of)(w, slot);
    w->created[w->created_count++].version = 1;
    return true;
}

/* The object as it stands, if it was declared with one of the accesses (a bit each) and that wasn't used yet. */
static const svm_object *X(usable)(svm_worker *w, const uint8_t *id, uint32_t accesses, uint32_t *input) {
    const svm_tx *tx = w->tx;
    *input = find_input(w, id);
    if (*input == UINT32_MAX) {
        fail(w, SVM_UNDECLARED_ACCESS, id, 0, 0);
        return NULL;
    }
    const uint8_t access = tx->data[tx->inputs_at + *input * SVM_INPUT + SVM_ID + 8];
    if ((accesses >> access & 1) == 0) {
        fail(w, SVM_UNDECLARED_ACCESS, id, 1u + access, 0);
        return NULL;
    }
    if (w->ended[*input]) {
        fail(w, SVM_ACCESS_USED, id, access, 0);
        return NULL;
    }
    const svm_object *object = X(value)(w, w->slots[1 + tx->sponsored + *input])->object;
    if (object == NULL || object->deleted) { /* inputs were checked */
        w->broken = true;
        fail(w, SVM_OBJECT_MISSING, id, 0, 0);
        return NULL;
    }
    return object;
}

/* The common mutation: of the next input, which got its new version before and hasn't been ended. */
static inline bool X(is_plain_mutation)(const svm_worker *w, const uint8_t *at) {
    const svm_tx *tx = w->tx;
    const uint32_t input = w->next_input;
    if (at[0] != SVM_OP_OBJECT_MUTATE || input >= tx->inputs || w->raised[input] == NULL || w->ended[input]) {
        return false;
    }
    const uint8_t *declared = tx->data + tx->inputs_at + input * SVM_INPUT;
    return svm_same_id(declared, at + 1) && declared[SVM_ID + 8] != SVM_READ;
}

static inline bool X(mutate_next)(svm_worker *w, const uint8_t *at) {
    const uint32_t size = svm_get_u32(at + 33);
    if (!X(check_size)(w, size) || !use_gas(w, w->block->facts.gas.entry_write_byte * size)) {
        return false;
    }
    svm_object *next = w->raised[w->next_input++]; /* nobody else has seen it yet */
    next->data = at + 37;
    next->size = size;
    return true;
}

static bool X(mutate_object)(svm_worker *w, const uint8_t *at) {
    const svm_gas_schedule *gas = &w->block->facts.gas;
    const uint32_t size = svm_get_u32(at + 33);
    const uint32_t accesses = 1u << SVM_WRITE | 1u << SVM_TRANSFER | 1u << SVM_SHARE | 1u << SVM_FREEZE | 1u << SVM_DELETE;
    uint32_t input;
    const svm_object *object = X(usable)(w, at + 1, accesses, &input);
    if (object == NULL || !X(check_size)(w, size) || !use_gas(w, gas->entry_write_byte * size)) {
        return false;
    }
    const bool first = w->written[input] == 0; /* shared, and not written before */
    if (first && !use_gas(w, gas->object_mutate)) {
        return false;
    }
    if (object == w->raised[input]) { /* nobody else has seen it yet */
        w->raised[input]->data = at + 37;
        w->raised[input]->size = size;
        return true;
    }
    svm_object *next = new_object(w, object);
    if (next == NULL) {
        return true;
    }
    if (first) {
        next->version = w->written[input] = object->version + 1;
    }
    next->data = at + 37;
    next->size = size;
    X(change)(w, w->slots[1 + w->tx->sponsored + input])->object = next;
    return true;
}

/* Uses up an input's access. Its new version was paid for, as a mutation; here comes what it lacks. */
static svm_object *X(end)(svm_worker *w, const uint8_t *id, enum svm_access access, uint64_t gas, uint32_t *input) {
    const uint64_t paid = w->block->facts.gas.object_mutate;
    const svm_object *object = X(usable)(w, id, 1u << access, input);
    if (object == NULL || !use_gas(w, gas > paid ? gas - paid : 0)) {
        return NULL;
    }
    w->ended[*input] = 1;
    svm_object *next = new_object(w, object);
    if (next != NULL) {
        X(change)(w, w->slots[1 + w->tx->sponsored + *input])->object = next;
    }
    return next;
}

static bool X(transfer_object)(svm_worker *w, const uint8_t *at) {
    uint32_t input;
    svm_object *next = X(end)(w, at + 1, SVM_TRANSFER, w->block->facts.gas.object_transfer, &input);
    if (next != NULL) {
        memcpy(next->owner, at + 1 + SVM_ID, SVM_ID);
    }
    return next != NULL;
}

static bool X(share_object)(svm_worker *w, const uint8_t *at) {
    uint32_t input;
    svm_object *next = X(end)(w, at + 1, SVM_SHARE, w->block->facts.gas.object_share, &input);
    if (next != NULL) {
        next->kind = SVM_SHARED;
        memset(next->owner, 0, SVM_ID);
        svm_put_u64(next->owner, next->version);
    }
    return next != NULL;
}

static bool X(freeze_object)(svm_worker *w, const uint8_t *at) {
    uint32_t input;
    svm_object *next = X(end)(w, at + 1, SVM_FREEZE, w->block->facts.gas.object_freeze, &input);
    if (next != NULL) {
        next->kind = SVM_IMMUTABLE;
        memset(next->owner, 0, SVM_ID);
    }
    return next != NULL;
}

static bool X(delete_object)(svm_worker *w, const uint8_t *at) {
    uint32_t input;
    const svm_object *object = X(usable)(w, at + 1, 1u << SVM_DELETE, &input);
    if (object == NULL || !use_gas(w, w->block->facts.gas.entry_delete)) {
        return false;
    }
    w->ended[input] = 1;
    svm_object *next = new_object(w, object);
    if (next == NULL) {
        return true;
    }
    next->deleted = 1;
    next->data = NULL;
    next->size = 0;
    X(change)(w, w->slots[1 + w->tx->sponsored + input])->object = next;
    w->deleted[w->deleted_count].id = w->tx->data + w->tx->inputs_at + input * SVM_INPUT;
    w->deleted[w->deleted_count++].version = w->written[input];
    w->written[input] = 0;
    return true;
}

/* What operations on stakes have in common: they are paid for, and the sender's key votes. */
static bool X(begin_stake)(svm_worker *w, const svm_object *stakes) {
    if (!X(use_entry)(w) || !X(use_entry)(w) ||
        !use_gas(w, w->block->facts.gas.entry_write_byte * (stakes != NULL ? stakes->size : 0))) {
        return false;
    }
    return w->tx->data[w->tx->authorization_at] == 1 || fail(w, SVM_STAKE_KEY, NULL, 0, 0);
}

static bool X(add_stake)(svm_worker *w, const uint8_t *at, uint32_t entry, uint32_t escrow) {
    const svm_object *stakes = X(value)(w, entry)->object;
    const svm_u128 added = svm_get_u128(at + 1);
    uint8_t node[SVM_ID];
    if (!X(begin_stake)(w, stakes)) {
        return false;
    }
    const uint8_t *key = w->tx->data + w->tx->authorization_at + 5;
    stake own = find_stake(&w->block->facts, stakes, key);
    if (!own.recorded && !own.named && stakes_used(stakes) >= STAKES_MAX) {
        return fail(w, SVM_STAKES_FULL, NULL, STAKES_MAX, 0);
    }
    if (own.left != 0 && own.amount != 0) {
        return fail(w, SVM_STAKE_LEAVING, NULL, own.left, 1);
    }
    const svm_u128 amount = own.amount + added, least = stake_unit(w);
    const bool carry = amount < added;
    if (carry || amount < least) {
        fail(w, SVM_STAKE_TOO_LOW, NULL, amount, least);
        w->detail.first[2] = carry;
        return false;
    }
    if (!X(debit)(w, w->slots[0], svm_zeros, added, 0)) {
        return false;
    }
    X(add)(w, escrow, true, added);
    own.amount = amount;
    own.left = 0;
    X(change)(w, entry)->object = with_stake(w, stakes, key, &own, true);
    node_of(key, node);
    return emit(w, node, "stake.added", at + 1, 16);
}

static bool X(leave_set)(svm_worker *w, uint32_t entry) {
    const svm_object *stakes = X(value)(w, entry)->object;
    uint8_t node[SVM_ID], epoch[8];
    if (!X(begin_stake)(w, stakes)) {
        return false;
    }
    const uint8_t *key = w->tx->data + w->tx->authorization_at + 5;
    stake own = find_stake(&w->block->facts, stakes, key);
    if (!own.granted && own.amount == 0) {
        return fail(w, SVM_STAKE_UNKNOWN, NULL, 0, 0);
    }
    if (own.left != 0) {
        return fail(w, SVM_STAKE_LEAVING, NULL, own.left, 0);
    }
    own.left = w->block->facts.epoch;
    own.granted = false;
    const svm_object *after = with_stake(w, stakes, key, &own, true);
    if (after != NULL && !elects_somebody(w, after)) {
        return fail(w, SVM_LAST_VALIDATOR, NULL, 0, 0);
    }
    X(change)(w, entry)->object = after;
    node_of(key, node);
    svm_put_u64(epoch, own.left);
    return emit(w, node, "stake.left", epoch, sizeof epoch);
}

static bool X(withdraw_stake)(svm_worker *w, uint32_t entry, uint32_t escrow) {
    const svm_object *stakes = X(value)(w, entry)->object;
    const uint64_t now = w->block->facts.epoch;
    uint8_t node[SVM_ID], paid[16];
    if (!X(begin_stake)(w, stakes)) {
        return false;
    }
    const uint8_t *key = w->tx->data + w->tx->authorization_at + 5;
    stake own = find_stake(&w->block->facts, stakes, key);
    if (own.amount == 0) {
        return fail(w, SVM_STAKE_UNKNOWN, NULL, 1, 0);
    }
    const svm_u128 free_in = own.left != 0 ? (svm_u128)own.left + UNBONDING_EPOCHS : 0;
    if (own.left == 0 || now < free_in) {
        return fail(w, SVM_STAKE_BOUND, NULL, now, free_in);
    }
    X(subtract)(w, escrow, true, own.amount);
    X(add)(w, w->slots[0], true, own.amount);
    svm_put_u128(paid, own.amount);
    own.amount = 0;
    X(change)(w, entry)->object = with_stake(w, stakes, key, &own, own.named);
    node_of(key, node);
    return emit(w, node, "stake.withdrawn", paid, sizeof paid);
}

static bool X(run_stake)(svm_worker *w, const uint8_t *at, const uint32_t **slots) {
    const uint32_t entry = *(*slots)++, escrow = *(*slots)++;
    switch (at[0]) {
    case SVM_OP_STAKE_ADD:
        return X(add_stake)(w, at, entry, escrow);
    case SVM_OP_STAKE_LEAVE:
        return X(leave_set)(w, entry);
    default:
        return X(withdraw_stake)(w, entry, escrow);
    }
}

static bool X(run_operation)(svm_worker *w, const uint8_t *at, const uint32_t **slots) {
    switch (at[0]) {
    case SVM_OP_TRANSFER:
        return X(transfer)(w, at, slots);
    case SVM_OP_TOKEN_CREATE:
        return X(create_token)(w, at, slots);
    case SVM_OP_MINT:
        return X(mint)(w, at, slots);
    case SVM_OP_BURN:
        return X(burn)(w, at, slots);
    case SVM_OP_OBJECT_CREATE:
        return X(create_object)(w, at, slots);
    case SVM_OP_OBJECT_MUTATE:
        return X(mutate_object)(w, at);
    case SVM_OP_OBJECT_TRANSFER:
        return X(transfer_object)(w, at);
    case SVM_OP_OBJECT_SHARE:
        return X(share_object)(w, at);
    case SVM_OP_OBJECT_FREEZE:
        return X(freeze_object)(w, at);
    case SVM_OP_OBJECT_DELETE:
        return X(delete_object)(w, at);
    default:
        return X(run_stake)(w, at, slots);
    }
}

/* The bytes were checked when they were decoded; this only finds the next operation. */
static uint32_t X(operation_size)(const uint8_t *at) {
    switch (at[0]) {
    case SVM_OP_TRANSFER:
        return 35 + svm_get_u16(at + 33) * SVM_OUTPUT;
    case SVM_OP_TOKEN_CREATE:
        return 5 + svm_get_u32(at + 1) + 1 + 16 + 1;
    case SVM_OP_MINT:
        return 1 + SVM_ID + SVM_ID + 16;
    case SVM_OP_BURN:
        return 1 + SVM_ID + 16;
    case SVM_OP_OBJECT_CREATE:
        return 42 + svm_get_u32(at + 38);
    case SVM_OP_OBJECT_MUTATE:
        return 37 + svm_get_u32(at + 33);
    case SVM_OP_OBJECT_TRANSFER:
        return 1 + SVM_ID + SVM_ID;
    case SVM_OP_STAKE_ADD:
        return 1 + 16;
    case SVM_OP_STAKE_LEAVE:
    case SVM_OP_STAKE_WITHDRAW:
        return 1;
    default:
        return 1 + SVM_ID;
    }
}

static bool X(run_operations)(svm_worker *w, uint64_t intrinsic) {
    const svm_tx *tx = w->tx;
    if (!use_gas(w, intrinsic) || !X(use_entry)(w) || (tx->sponsored && !X(use_entry)(w))) {
        return false;
    }
    if (tx->inputs != 0 && !X(use_inputs)(w)) {
        return false;
    }
    const uint8_t *at = tx->data + tx->payload_at + 2;
    const uint32_t *slots = w->slots + 1 + tx->sponsored + tx->inputs;
    for (uint32_t i = 0; i < tx->operations; i++) {
        if (X(is_plain_mutation)(w, at)) {
            if (!X(mutate_next)(w, at)) {
                return false;
            }
            at += 37 + svm_get_u32(at + 33);
            continue;
        }
        if (!X(run_operation)(w, at, &slots)) {
            return false;
        }
        at += X(operation_size)(at);
    }
    return true;
}

/* The written list of a failed transaction is what `raise_versions` gave; operations may have changed it. */
static void X(written_before)(svm_worker *w) {
    const svm_tx *tx = w->tx;
    for (uint32_t i = 0; i < tx->inputs; i++) {
        const svm_object *object = w->objects[i];
        const uint8_t *declared = tx->data + tx->inputs_at + i * SVM_INPUT;
        w->written[i] = X(is_own)(object, declared, tx->data + SVM_AT_SENDER) ? object->version + 1 : 0;
    }
}

static void X(execute)(svm_worker *w, uint32_t index) {
    svm_block *block = w->block;
    const svm_tx *tx = &block->txs[index];
    const svm_block_facts *facts = &block->facts;
    svm_outcome *outcome = &block->outcomes[index];

    w->executions++;
    w->tx = tx;
    w->digest = block->digests + (size_t)index * SVM_ID;
    w->slots = block->slot_of + tx->keys;
    w->gas_limit = svm_get_u64(tx->data + SVM_AT_GAS_LIMIT);
    w->gas_used = 0;
    w->saving = false;
    w->broken = false;
    w->undo_count = w->created_count = w->deleted_count = w->events_count = w->events_size = w->next_input = 0;
    memset(&w->detail, 0, sizeof w->detail);
    if (!make_room(w, tx)) {
        w->error = SVM_ENGINE_NO_MEMORY;
        return;
    }
    const uint32_t payer = tx->sponsored ? w->slots[1] : w->slots[0];
    const uint32_t *input_slots = w->slots + 1 + tx->sponsored;
    w->owns_all = false;
    if (tx->inputs != 0) {
        X(find_objects)(w, input_slots);
    }
    memset(outcome, 0, sizeof *outcome);
    outcome->effects_size = SVM_NO_EFFECTS;
    outcome->lane = X(lane)(w);
    if (!X(check_turn)(w, payer)) {
        outcome->status = SVM_VOID;
        outcome->code = (uint8_t)w->detail.code;
        w->detail.index = index;
        keep_detail(w, outcome);
        return;
    }
    X(change)(w, w->slots[0])->account.nonce++;
    if (tx->sponsored) {
        X(change)(w, payer)->account.sponsor_nonce++;
    }
    if (tx->inputs != 0) {
        X(raise_versions)(w, input_slots);
    }
    const uint64_t max_price = svm_get_u64(tx->data + SVM_AT_MAX_PRICE);
    const uint64_t price = max_price < facts->price ? max_price : facts->price;
    const svm_u128 reserve = svm_price_of(w->gas_limit, max_price);
    const uint64_t intrinsic =
        facts->gas.transaction + facts->gas.transaction_byte * tx->size + tx->suites_gas;
    bool success = false;
    if (X(balance)(w, payer, true) < reserve) {
        w->gas_used = intrinsic < w->gas_limit ? intrinsic : w->gas_limit;
        svm_u128 fee = svm_price_of(w->gas_used, price);
        fee = fee < reserve ? fee : reserve;
        const svm_u128 have = X(balance)(w, payer, true);
        fee = fee < have ? fee : have;
        X(subtract)(w, payer, true, fee);
        outcome->fee = fee;
        fail(w, SVM_FEE_UNFUNDED, NULL, reserve, 0);
    } else {
        X(subtract)(w, payer, true, reserve);
        w->saving = true;
        success = X(run_operations)(w, intrinsic);
        uint64_t paid = w->gas_used;
        if (success) {
            const uint64_t refund = facts->gas.refund_delete * w->deleted_count, most = w->gas_used / 5;
            paid -= refund < most ? refund : most;
        } else {
            X(rollback)(w);
            X(written_before)(w);
        }
        w->saving = false;
        svm_u128 fee = svm_price_of(paid, price);
        fee = fee < reserve ? fee : reserve;
        outcome->fee = fee;
        X(add)(w, payer, true, reserve - fee);
    }
    outcome->status = success ? SVM_COMMITTED : SVM_FAILED;
    outcome->code = success ? SVM_DONE : (uint8_t)w->detail.code;
    outcome->gas_used = w->gas_used;
    keep_effects(w, outcome, success);
    if (!success) {
        w->detail.index = index;
        keep_detail(w, outcome);
    }
    if (w->broken) {
        outcome->status = SVM_BROKEN;
    }
}
