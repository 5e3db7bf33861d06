-- Owns the counting of all workers' limits inside Redis: one call decides everything that a worker asks at one moment.
--
-- A rate is kept as the units used at a moment, with the pace at which they drain: the same bucket as in gcra.py, where one
-- number says when it is full again. Units stay exact beside a quota of any size, and stay used when a limit is edited;
-- moments are whole microseconds. A place hash holds each worker's own count, which counts while that worker's lease runs.
--
-- The question (question.py): verb, me, lease_us, prefix, at_us, dropped, rates, places, gates, admissions
-- The answer: number of live workers (0: join first, nothing was done), units used by rate, two numbers by admission:
--   0, 0 admitted; i, wait_us refused by rate i; -i, 0 refused by place i

local verb, me, lease_us, prefix, at_us, dropped, rates, places, gates, admissions = unpack(cmsgpack.unpack(ARGV[1]))
local call, max, min = redis.call, math.max, math.min
local time = call('TIME')
local clock = time[1] * 1e6 + time[2]
local now = at_us > 0 and at_us or clock
local workers = prefix .. 'workers'
local LINGER_MS = 60000   -- an empty bucket is forgotten, but not while somebody may still be reading its clock
local PLACES_MS = 600000  -- workers repeat their counts far more often

-- == Members =============================================================================================================

for _, worker in ipairs(dropped) do call('ZREM', workers, worker) end
if verb == 'join' or verb == 'renew' then
    -- Whoever is out must join again under a new name, or a call of its past could count for it.
    if verb == 'join' or tonumber(call('ZSCORE', workers, me) or 0) > clock then
        call('ZADD', workers, clock + lease_us, me)
    end
    call('ZREMRANGEBYSCORE', workers, '-inf', clock)
    call('PEXPIRE', workers, max(PLACES_MS, lease_us / 250))
end
local live, members = {}, call('ZRANGEBYSCORE', workers, clock, '+inf')
for _, worker in ipairs(members) do live[worker] = true end
if not live[me] then return cmsgpack.pack({0, {}, {}}) end

-- == Rates: name, quota, window_s, owed ==================================================================================

local names, home, first, used, pace, dirty = {}, {}, {}, {}, {}, {}
for i = 1, #rates / 4 do names[i] = prefix .. rates[4 * i - 3] end
local values = #names > 0 and call('MGET', unpack(names)) or {}
-- An edited limit may stand here in both versions: `home` is where the one bucket of both is counted.
for i, name in ipairs(names) do
    local h = first[name]
    pace[i] = rates[4 * i - 2] / rates[4 * i - 1] / 1e6
    if not h then
        h = i
        first[name] = i
        used[i] = 0
        if values[i] then
            -- By the pace at which it was left: an edited limit drains anew from now on.
            local before, at, old_pace = struct.unpack('<ddd', values[i])
            used[i] = max(0, before - max(0, now - at) * old_pace)
            -- A clock that was set back must not hold the bucket still until it has caught up.
            dirty[i] = at > now or old_pace ~= pace[i]
        end
    end
    home[i] = h
    local owed = rates[4 * i]
    if owed ~= 0 then
        used[h] = max(0, used[h] + owed)
        dirty[h] = true
    end
end

-- == Places: name, quota, running here ===================================================================================

local place_names, place_home, known, mine, others, told = {}, {}, {}, {}, {}, {}
for i = 1, #places / 3 do
    local name = prefix .. places[3 * i - 2]
    place_home[i] = known[name] or i
    known[name] = place_home[i]
    place_names[i], mine[i] = name, places[3 * i]
end

-- What the other workers run there. Counts of those whose lease is over go.
local function count_others(s)
    local sum, counts = 0, call('HGETALL', place_names[s])
    for j = 1, #counts, 2 do
        if counts[j] == me then
            told[s] = tonumber(counts[j + 1])
        elseif live[counts[j]] then
            sum = sum + tonumber(counts[j + 1])
        else
            call('HDEL', place_names[s], counts[j])
        end
    end
    others[s] = sum
end

-- == Admissions: gate, tokens ============================================================================================

local outcomes = {}

-- All limits of an admission are looked at before any is taken.
local function refusal(gate, tokens)
    for _, i in ipairs(gate[3]) do
        local s = place_home[i]
        if not others[s] then count_others(s) end
        if others[s] + mine[s] >= places[3 * i - 1] then return -i, 0 end
    end
    for kind = 1, 2 do
        for _, i in ipairs(gate[kind]) do
            local quota = rates[4 * i - 2]
            local over = used[home[i]] + min(kind == 1 and 1 or tokens, quota) - quota
            -- As in gcra.py, a microsecond of slack: sums of many small steps must not refuse the last unit.
            if over > pace[i] then return i, over / pace[i] end
        end
    end
    return 0, 0
end

for a = 1, #admissions, 2 do
    local gate, tokens = gates[admissions[a]], admissions[a + 1]
    local by, wait = refusal(gate, tokens)
    if by == 0 then
        for _, i in ipairs(gate[3]) do mine[place_home[i]] = mine[place_home[i]] + 1 end
        for kind = 1, 2 do
            for _, i in ipairs(gate[kind]) do
                local h = home[i]
                used[h] = used[h] + min(kind == 1 and 1 or tokens, rates[4 * i - 2])
                pace[h] = pace[i]
                dirty[h] = true
            end
        end
    end
    outcomes[a], outcomes[a + 1] = by, wait
end

-- == What is new is written ==============================================================================================

for i, name in ipairs(names) do
    if home[i] == i and dirty[i] then
        if used[i] > 0 then
            local lasts_ms = math.ceil(used[i] / pace[i] / 1000) + LINGER_MS
            call('SET', name, struct.pack('<ddd', used[i], now, pace[i]), 'PX', string.format('%.0f', min(lasts_ms, 1e15)))
        else
            call('DEL', name)
        end
    end
end
for i, name in ipairs(place_names) do
    if place_home[i] == i and mine[i] ~= told[i] then
        if mine[i] > 0 then
            call('HSET', name, me, mine[i])
            call('PEXPIRE', name, PLACES_MS)
        else
            call('HDEL', name, me)
        end
    end
end

local levels = {}
for i = 1, #names do levels[i] = used[home[i]] end
return cmsgpack.pack({#members, levels, outcomes})
