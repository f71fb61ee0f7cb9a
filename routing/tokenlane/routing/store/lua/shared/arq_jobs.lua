-- ARQ's side of an attempt: its job on a lane's queue, and the keys that ARQ has of the job.
-- uses base

local JOB_KEPT_MS = 86400000 -- the end of the attempt deletes the keys earlier

local function job_of(id, attempt)
  return TAG .. id .. ':' .. attempt
end

-- The request's id and the attempt; nil for a job that is not this pool's.
local function attempt_of(job)
  return string.match(job, '}(.+):(%d+)$')
end

-- ARQ's mark on a job in progress: no other reader of the lane's queue starts it.
local function mark(job)
  redis.call('SET', P .. 'arq:in-progress:' .. job, '1', 'PX', JOB_KEPT_MS)
end

-- Frees the lane's credit.
local function drop_job(queue, job)
  redis.call('ZREM', queue, job)
  redis.call('DEL', P .. 'arq:job:' .. job, P .. 'arq:in-progress:' .. job, P .. 'arq:retry:' .. job)
end
