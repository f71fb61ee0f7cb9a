;; A prompt plugin that appends one sentence to the user's last message. A worker takes this file as it is; a binary module
;; with the same exports works alike.
(module
  (memory (export "memory") 1)

  ;; The output, 41 bytes of JSON.
  (data (i32.const 16) "{\"suffix\": \"\\n\\nAnswer in one sentence.\"}")
  ;; The result: 0 for success (1: an error), and where the output stands and how long it is.
  (data (i32.const 1024) "\00\00\00\00" "\10\00\00\00" "\29\00\00\00")

  ;; Where the host may write the input, which this plugin does not read. It grows the memory if the input needs that.
  (func (export "cabi_realloc") (param $old i32) (param $old-size i32) (param $align i32) (param $size i32) (result i32)
    (drop (memory.grow (i32.shr_u (i32.add (local.get $size) (i32.const 65535)) (i32.const 16))))
    (i32.const 65536))

  (func (export "tokenlane:prompt/template@1.0.0#render") (param $input i32) (param $size i32) (result i32)
    (i32.const 1024)))
