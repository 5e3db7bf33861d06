// The playground: a chat over /v1, as any client has it. The key and the conversation live in this tab's sessionStorage; what
// models write is shown as text and nothing else. Money is counted in whole nano-credits, so that sums are exact.
"use strict";

(() => {
  const KEY = "playground.key", TALK = "playground.talk";
  const NANO_DIGITS = 9, USD_DIGITS = 11; // a credit is 10^9 nano-credits, a dollar 10^11
  const get = (id) => document.getElementById(id);
  const place = get("playground");
  if (!place) return;

  // A key that was just made goes into the tab's memory, and its page out of the history.
  const made = get("made-key");
  if (made) {
    sessionStorage.setItem(KEY, made.value);
    made.remove();
    location.replace("/playground");
    return;
  }

  const fields = { model: get("field-model"), system: get("field-system"), temperature: get("field-temperature"), max: get("field-max") };
  const message = get("field-message"), log = get("log");
  let key = sessionStorage.getItem(KEY) || "";
  let talk = { messages: [], settings: {}, spent: "0", stopped: false, shown: [] };
  try {
    talk = { ...talk, ...JSON.parse(sessionStorage.getItem(TALK) || "{}") };
  } catch { /* what cannot be read is begun anew */ }
  let prices = new Map();
  let running = null;

  const save = () => {
    talk.settings = Object.fromEntries(Object.entries(fields).map(([name, field]) => [name, field.value]));
    try {
      sessionStorage.setItem(TALK, JSON.stringify(talk));
    } catch { /* too long to be kept: it goes on without */ }
  };

  // ── amounts ──
  const scaled = (text, digits) => {
    const [whole, rest = ""] = String(text).split(".");
    return BigInt(whole + rest.padEnd(digits, "0").slice(0, digits));
  };
  const credits = (nano) => {
    const text = nano.toString().padStart(NANO_DIGITS + 1, "0");
    const rest = text.slice(-NANO_DIGITS).replace(/0+$/, "");
    return text.slice(0, -NANO_DIGITS) + (rest ? `.${rest}` : "");
  };
  const count = (number) => Number(number).toLocaleString("en-US");
  const plural = (number, word) => `${count(number)} ${word}${Number(number) === 1 ? "" : "s"}`;
  const seconds = (ms) => (ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(2)} s`);
  // Models differ; English has about four characters a token.
  const guess = (text) => Math.ceil(text.length / 4);

  const make = (tag, className, text) => {
    const node = document.createElement(tag);
    if (className) node.className = className;
    if (text !== undefined) node.textContent = text;
    return node;
  };
  const link = (address, text) => {
    const node = make("a", "", text);
    node.href = address;
    return node;
  };

  // ── the key ──
  const chooseKey = (trouble) => {
    get("choose-key").hidden = false;
    get("desk").hidden = true;
    get("key-trouble").hidden = !trouble;
    get("key-trouble").textContent = trouble || "";
  };
  const useKey = async (given) => {
    const headers = { Authorization: `Bearer ${given}` };
    let answer;
    try {
      answer = await fetch("/v1/models", { headers, credentials: "omit", cache: "no-store" });
    } catch {
      return chooseKey("The server could not be reached; check your connection and try again.");
    }
    const body = await answer.json().catch(() => ({}));
    if (!answer.ok) {
      if (answer.status === 401) sessionStorage.removeItem(KEY);
      const why = "This key is not accepted. It may be disabled, expired or mistyped; use another.";
      return chooseKey(answer.status === 401 ? why : body.error?.message || `The server answered ${answer.status}.`);
    }
    if (!body.data.length) return chooseKey("This key has no model that can be called now; use another.");
    key = given;
    sessionStorage.setItem(KEY, key);
    prices = new Map(body.data.map((model) => [model.id, model]));
    fields.model.replaceChildren(...body.data.map((model) => new Option(model.id, model.id)));
    if (prices.has(talk.settings.model)) fields.model.value = talk.settings.model;
    get("hint").textContent = `${key.slice(0, 10)}…${key.slice(-4)}`;
    get("choose-key").hidden = true;
    get("desk").hidden = false;
    showRates();
    showCode();
  };
  const showRates = () => {
    const price = prices.get(fields.model.value)?.pricing;
    const perMillion = (usd) => credits(scaled(usd, USD_DIGITS) * 1000000n);
    get("rates").textContent = price
      ? `Credits per million tokens: ${perMillion(price.prompt)} in, ${perMillion(price.completion)} out`
      : "";
  };

  // ── the request ──
  const request = (asked) => {
    const system = fields.system.value.trim();
    const body = { model: fields.model.value, messages: [...talk.messages] };
    if (system) body.messages.unshift({ role: "system", content: system });
    if (asked) body.messages.push({ role: "user", content: asked });
    if (fields.temperature.value !== "") body.temperature = Number(fields.temperature.value);
    if (fields.max.value !== "") body.max_tokens = Number(fields.max.value);
    return { ...body, stream: true, stream_options: { include_usage: true } };
  };
  const showCode = () => {
    if (!get("code").open) return;
    const body = request(message.value.trim() || "Hello");
    const quoted = JSON.stringify(body, null, 2).replaceAll("'", "'\\''");
    const base = place.dataset.baseUrl;
    get("code-curl").textContent = `curl -N ${base}/chat/completions \\\n  -H "Authorization: Bearer YOUR_API_KEY" \\\n`
      + `  -H "Content-Type: application/json" \\\n  -d '${quoted}'`;
    // Texts and numbers are written alike in JSON and in Python.
    const indented = (value) => JSON.stringify(value, null, 4).replaceAll("\n", "\n    ");
    const given = Object.entries(body).filter(([name]) => !name.startsWith("stream"));
    get("code-python").textContent = [
      "from openai import OpenAI", "",
      `client = OpenAI(base_url=${JSON.stringify(base)}, api_key="YOUR_API_KEY")`,
      "stream = client.chat.completions.create(",
      ...given.map(([name, value]) => `    ${name}=${indented(value)},`),
      "    stream=True,", '    stream_options={"include_usage": True},', ")",
      "for chunk in stream:",
      "    if chunk.choices:",
      '        print(chunk.choices[0].delta.content or "", end="", flush=True)',
      "    if chunk.usage:",
      '        print(f"\\n{chunk.usage.cost_credits} credits")',
    ].join("\n");
  };

  // ── what is shown ──
  const atEnd = () => log.scrollHeight - log.scrollTop - log.clientHeight < 40;
  const bubble = (role, text) => {
    const node = make("article", `said ${role}`);
    node.append(make("h3", "", role === "user" ? "You" : fields.model.value));
    const words = make("p", "words", text);
    node.append(words);
    log.append(node);
    log.scrollTop = log.scrollHeight;
    return { node, words };
  };
  const showTotal = () => {
    const spent = BigInt(talk.spent);
    const stopped = talk.stopped ? ", and what stopped answers cost" : "";
    get("total").textContent = spent > 0n || stopped ? `${credits(spent)} credits so far${stopped}` : "";
  };
  const drawAll = () => {
    log.replaceChildren();
    for (const one of talk.shown) {
      const { node } = bubble(one.role, one.text);
      if (one.name) node.querySelector("h3").textContent = one.name;
      if (one.facts) node.append(make("small", "facts-line", one.facts));
    }
    if (!talk.shown.length) log.append(make("p", "muted", "Nothing said yet."));
    showTotal();
  };

  // ── one answer ──
  async function* eventsOf(body) {
    const reader = body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const parts = (rest + value).split("\n\n");
      rest = parts.pop();
      for (const part of parts) if (part.startsWith("data: ")) yield part.slice(6);
    }
  }
  const TITLES = {
    400: "The request was refused.", 401: "This key is not accepted.", 402: "There are not enough credits.",
    403: "This key may not use this model now.", 413: "This is too long.", 422: "The request was refused.",
    429: "That was too fast.", 500: "That was our fault.", 502: "No provider of this model answered.", 503: "A moment, please.",
  };
  const REMEDIES = { 401: ["/keys", "Your keys"], 402: ["/billing", "Top up"], 403: ["/keys", "Your keys"] };
  class Refusal extends Error {
    constructor(message, status, retryAfter) {
      super(message);
      this.status = status;
      this.retryAfter = retryAfter;
    }
  }
  const refusalOf = async (answer) => {
    const body = await answer.json().catch(() => ({}));
    const text = body.error?.message || `The server answered ${answer.status}.`;
    return new Refusal(text, answer.status, answer.headers.get("retry-after"));
  };

  const ask = async (asked) => {
    const body = request(asked);
    if (!talk.shown.length) log.replaceChildren();
    bubble("user", asked);
    const { node, words } = bubble("assistant", "");
    const facts = make("small", "facts-line", "Waiting for the first word …");
    node.append(facts);
    const state = { text: "", thought: "", usage: null, finish: null, firstMs: null, id: null, done: false };
    const started = performance.now();
    const stop = new AbortController();
    running = stop;
    working(true);
    let failure = null;
    try {
      const answer = await fetch("/v1/chat/completions", {
        method: "POST", credentials: "omit", cache: "no-store", signal: stop.signal, body: JSON.stringify(body),
        headers: { Authorization: `Bearer ${key}`, "Content-Type": "application/json" },
      });
      state.id = answer.headers.get("x-request-id");
      if (!answer.ok) throw await refusalOf(answer);
      for await (const data of eventsOf(answer.body)) {
        if (data === "[DONE]") {
          state.done = true;
          continue;
        }
        const event = JSON.parse(data);
        if (event.error) throw new Refusal(event.error.message, 0);
        take(state, event, started);
        const follow = atEnd();
        words.textContent = state.text;
        if (state.thought) thoughtOf(node, words).textContent = state.thought;
        facts.textContent = runningFacts(state, body);
        if (follow) log.scrollTop = log.scrollHeight;
      }
      if (!state.done) throw new TypeError("cut");
    } catch (error) {
      failure = error;
    }
    running = null;
    finish(asked, body, state, failure, { node, facts, started });
    working(false);
  };

  const take = (state, event, started) => {
    const choice = event.choices?.[0];
    const delta = choice?.delta || {};
    const thought = delta.reasoning_content || delta.reasoning;
    if (state.firstMs === null && (delta.content || thought)) state.firstMs = performance.now() - started;
    state.text += delta.content || "";
    state.thought += typeof thought === "string" ? thought : "";
    state.finish = choice?.finish_reason || state.finish;
    if (event.usage) state.usage = event.usage;
  };
  const thoughtOf = (node, words) => {
    let thought = node.querySelector(".thought");
    if (!thought) {
      thought = make("p", "thought");
      words.before(thought);
    }
    return thought;
  };

  const runningFacts = (state, body) => {
    const price = prices.get(body.model)?.pricing;
    const tokensIn = body.messages.reduce((sum, one) => sum + guess(one.content) + 4, 0);
    const tokensOut = guess(state.text) + guess(state.thought);
    let line = `Estimate while it runs: about ${count(tokensIn)} tokens in, ${count(tokensOut)} out`;
    if (price) {
      const nano = BigInt(tokensIn) * scaled(price.prompt, USD_DIGITS) + BigInt(tokensOut) * scaled(price.completion, USD_DIGITS);
      line += `, ${credits(nano)} credits`;
    }
    return line;
  };
  const finalFacts = (state, totalMs) => {
    const usage = state.usage || {};
    const tokensIn = usage.prompt_tokens ?? usage.input_tokens, tokensOut = usage.completion_tokens ?? usage.output_tokens;
    const cached = usage.prompt_tokens_details?.cached_tokens ?? usage.prompt_cache_hit_tokens ?? usage.cache_read_input_tokens;
    const parts = [];
    if (usage.cost_credits !== undefined) parts.push(`${usage.cost_credits} credits`);
    if (tokensIn !== undefined) parts.push(`${plural(tokensIn, "token")} in${cached ? ` (${count(cached)} cached)` : ""}`);
    if (tokensOut !== undefined) parts.push(`${count(tokensOut)} out`);
    if (state.firstMs !== null) parts.push(`first token after ${seconds(state.firstMs)}`);
    parts.push(`${seconds(totalMs)} in all`);
    if (state.finish === "length") parts.push("cut off at the most tokens");
    return parts.join(" · ");
  };

  const finish = (asked, body, state, failure, { node, facts, started }) => {
    const receipt = state.id ? link(`/usage/${state.id}`, "Receipt") : null;
    const wasStopped = failure?.name === "AbortError";
    if (!failure) {
      facts.textContent = finalFacts(state, performance.now() - started);
      if (state.usage?.cost_credits !== undefined) {
        talk.spent = (BigInt(talk.spent) + scaled(state.usage.cost_credits, NANO_DIGITS)).toString();
        node.dataset.credits = state.usage.cost_credits;
      }
      if (receipt) facts.append(" · ", receipt);
    } else if (wasStopped) {
      talk.stopped = true;
      facts.textContent = state.firstMs === null
        ? "You stopped it before its first word arrived. If the model had not begun, it costs nothing."
        : "You stopped it. What the model has written is charged; the receipt says how much in a few seconds.";
      if (receipt) facts.append(" ", receipt);
    } else if (failure instanceof Refusal) {
      const wait = failure.status === 429 && failure.retryAfter ? ` Try again in ${plural(failure.retryAfter, "second")}.` : "";
      const title = failure.status ? TITLES[failure.status] || `The server answered ${failure.status}.` : "The answer broke off.";
      facts.className = "facts-line error";
      facts.setAttribute("role", "alert");
      const free = failure.message.includes("charged") ? "" : " It was not charged.";
      facts.textContent = `${title} ${failure.message}${wait}${free}`;
      if (REMEDIES[failure.status]) facts.append(" ", link(...REMEDIES[failure.status]));
    } else {
      facts.className = "facts-line error";
      facts.setAttribute("role", "alert");
      facts.textContent = state.id
        ? "The connection broke before the answer was finished. The receipt says whether something was charged."
        : "The server could not be reached; check your connection and try again.";
      if (receipt) facts.append(" ", receipt);
    }
    const isAnswer = !failure || (wasStopped && state.text);
    if (isAnswer) {
      talk.messages.push({ role: "user", content: asked }, { role: "assistant", content: state.text });
      talk.shown.push({ role: "user", text: asked }, { role: "assistant", text: state.text, name: body.model, facts: facts.textContent.replace(/ (· )?Receipt$/, "") });
    } else if (!message.value) {
      message.value = asked;
    }
    save();
    showTotal();
    showCode();
  };

  const working = (yes) => {
    get("send").hidden = yes;
    get("stop").hidden = !yes;
    get("anew").disabled = get("forget").disabled = fields.model.disabled = yes;
    log.setAttribute("aria-busy", String(yes));
    message.focus();
  };

  // ── what people do ──
  get("paste-key").addEventListener("submit", (event) => {
    event.preventDefault();
    const given = get("field-key").value.trim();
    get("field-key").value = "";
    useKey(given);
  });
  get("forget").addEventListener("click", () => {
    sessionStorage.removeItem(KEY);
    key = "";
    chooseKey();
  });
  get("ask").addEventListener("submit", (event) => {
    event.preventDefault();
    const asked = message.value.trim();
    if (running || !asked) return;
    for (const field of [fields.temperature, fields.max]) if (!field.reportValidity()) return;
    message.value = "";
    ask(asked);
  });
  message.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    get("ask").requestSubmit();
  });
  get("stop").addEventListener("click", () => running?.abort());
  get("anew").addEventListener("click", () => {
    talk = { ...talk, messages: [], shown: [], spent: "0", stopped: false };
    save();
    drawAll();
    showCode();
    message.focus();
  });
  for (const field of Object.values(fields)) field.addEventListener("change", () => { save(); showRates(); showCode(); });
  message.addEventListener("input", showCode);
  get("code").addEventListener("toggle", showCode);

  for (const name of ["system", "temperature", "max"]) fields[name].value = talk.settings[name] || "";
  drawAll();
  place.hidden = false;
  if (key) useKey(key);
  else chooseKey();
})();
