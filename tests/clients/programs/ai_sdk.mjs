// Vercel's AI SDK with @ai-sdk/openai-compatible, set up as the documentation says.

import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, jsonSchema, Output, stepCountIs, streamText, tool } from "ai";

import { PARAMETERS, play, weather } from "./act.mjs";

const ANSWER = { type: "object", properties: { text: { type: "string" } }, required: ["text"], additionalProperties: false };

function requestOf({ baseURL, key, model, text, picture, retries }) {
  const provider = createOpenAICompatible({ name: "gateway", baseURL, apiKey: key, includeUsage: true });
  const content = [{ type: "text", text }];
  if (picture) content.push({ type: "file", data: picture, mediaType: "image/png" });
  return {
    model: provider(model),
    messages: [{ role: "user", content }],
    ...(retries === undefined ? {} : { maxRetries: retries }),
  };
}

async function run(request, stream) {
  if (!stream) return generateText(request);
  let failure;
  const result = streamText({ ...request, onError: ({ error }) => (failure = error) });
  let text = "";
  for await (const part of result.textStream) text += part;
  // A failure is a part of the stream: whoever only reads text must look for it here.
  if (failure) throw failure instanceof Error ? failure : Object.assign(new Error(failure.message ?? JSON.stringify(failure)));
  return { text, usage: await result.usage, steps: await result.steps };
}

async function chat(ask) {
  const output = ask.json ? { output: Output.object({ schema: jsonSchema(ANSWER) }) } : {};
  const { text, usage } = await run({ ...requestOf(ask), ...output }, ask.stream);
  return { text, usage: [usage.inputTokens, usage.outputTokens] };
}

async function useTool(ask) {
  const tools = { weather: tool({ inputSchema: jsonSchema(PARAMETERS), execute: async (given) => weather(given) }) };
  const { text, steps } = await run({ ...requestOf(ask), tools, stopWhen: stepCountIs(3) }, ask.stream);
  return { arguments: steps[0].toolCalls[0].input, text: steps.at(-1).text || text };
}

await play(chat, useTool);
