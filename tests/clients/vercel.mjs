// Asks with Vercel's AI SDK in several ways, and prints what came of each as a line of JSON.
import { createAnthropic } from "@ai-sdk/anthropic";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { embed, generateObject, generateText, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";

globalThis.AI_SDK_LOG_WARNINGS = false; // it would print them between the lines
const [api, base, apiKey] = process.argv.slice(2);
const settings = { apiKey };
const providers = {
  compatible: () => createOpenAICompatible({ name: "tokenlane", baseURL: `${base}/v1`, supportsStructuredOutputs: true, includeUsage: true, ...settings }),
  chat: () => createOpenAI({ baseURL: `${base}/v1`, ...settings }).chat,
  responses: () => createOpenAI({ baseURL: `${base}/v1`, ...settings }).responses,
  messages: () => createAnthropic({ baseURL: `${base}/v1`, ...settings }),
};
const model = providers[api]();
const common = { prompt: "q", maxRetries: 0 };
const reasoning = {
  openai: { forceReasoning: true, reasoningSummary: "auto" },
  anthropic: { thinking: { type: "enabled", budgetTokens: 1024 } },
};
const f = tool({ description: "A function.", inputSchema: z.object({ a: z.number().int().min(1) }), execute: async () => "7" });

const asks = {
  whole: async () => {
    const answer = await generateText({ model: model("sim"), ...common });
    return { text: answer.text.trim(), tokens: answer.usage.outputTokens, finish: answer.finishReason };
  },
  stream: async () => {
    const answer = streamText({ model: model("sim"), ...common });
    let text = "";
    for await (const piece of answer.textStream) text += piece;
    return { text: text.trim(), tokens: (await answer.usage).outputTokens, finish: await answer.finishReason };
  },
  tools: async () => {
    const answer = streamText({ model: model("sim"), tools: { f }, stopWhen: stepCountIs(3), ...common });
    await answer.consumeStream();
    const steps = await answer.steps;
    return { text: (await answer.text).trim(), calls: steps.flatMap((step) => step.toolCalls).map((call) => call.input) };
  },
  object: async () => (await generateObject({ model: model("sim"), schema: z.object({ a: z.number().int().min(1) }), ...common })).object,
  reasoning: async () => {
    const answer = await generateText({ model: model("thinker"), ...common, providerOptions: reasoning });
    return { text: answer.text.trim(), reasoned: Boolean(answer.reasoningText) };
  },
  missing: async () => {
    try {
      await generateText({ model: model("none"), ...common });
    } catch (error) {
      return { status: error.statusCode };
    }
  },
  abort: async () => {
    const leaving = new AbortController();
    const answer = streamText({ model: model("sim"), abortSignal: leaving.signal, onError: () => {}, ...common });
    for await (const _ of answer.textStream) leaving.abort();
    return { left: true };
  },
};
for (const [name, ask] of Object.entries(asks)) {
  let came;
  try {
    came = await ask();
  } catch (error) {
    came = { error: String(error), cause: String(error.cause ?? "") };
  }
  console.log(JSON.stringify([name, came]));
}
