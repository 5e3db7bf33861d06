// OpenAI's SDK for Node, of the major version that OPENAI_PACKAGE names.

import { messagesOf, play, weather, WEATHER } from "./act.mjs";

const { default: OpenAI } = await import(process.env.OPENAI_PACKAGE);

function clientOf({ baseURL, key, retries }) {
  return new OpenAI({ baseURL, apiKey: key, timeout: 30_000, ...(retries === undefined ? {} : { maxRetries: retries }) });
}

async function chat(ask) {
  const { completions } = clientOf(ask).chat;
  const body = { model: ask.model, messages: messagesOf(ask), ...(ask.json ? { response_format: { type: "json_object" } } : {}) };
  if (!ask.stream) {
    const { choices, usage } = await completions.create(body);
    return { text: choices[0].message.content, usage: [usage.prompt_tokens, usage.completion_tokens] };
  }
  let text = "", usage = null;
  for await (const chunk of await completions.create({ ...body, stream: true, stream_options: { include_usage: true } })) {
    for (const choice of chunk.choices) text += choice.delta.content ?? "";
    usage = chunk.usage ?? usage;
  }
  return { text, usage: usage && [usage.prompt_tokens, usage.completion_tokens] };
}

async function useTool(ask) {
  const { completions } = clientOf(ask).chat;
  const messages = messagesOf(ask);
  const body = { model: ask.model, messages, tools: [WEATHER] };
  let call;
  if (ask.stream) {
    for await (const chunk of await completions.create({ ...body, stream: true })) {
      for (const piece of chunk.choices[0].delta.tool_calls ?? []) {
        if (call) call.function.arguments += piece.function.arguments ?? "";
        else call = piece;
      }
    }
    delete call.index;
  } else {
    [call] = (await completions.create(body)).choices[0].message.tool_calls;
  }
  const given = JSON.parse(call.function.arguments);
  messages.push({ role: "assistant", content: null, tool_calls: [call] });
  messages.push({ role: "tool", tool_call_id: call.id, content: weather(given) });
  const last = await completions.create(body);
  return { arguments: given, text: last.choices[0].message.content };
}

await play(chat, useTool);
