SET statement_timeout = 0;
SET lock_timeout = 0;
SET idle_in_transaction_session_timeout = 0;
SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;
SELECT pg_catalog.set_config('search_path', '', false);
SET check_function_bodies = false;
SET xmloption = content;
SET client_min_messages = warning;
SET row_security = off;
CREATE FUNCTION public.audit_log_refuse() RETURNS trigger
    LANGUAGE plpgsql
    AS $$ BEGIN RAISE EXCEPTION 'the audit log is append-only'; END $$;
SET default_tablespace = '';
SET default_table_access_method = heap;
CREATE TABLE public.api_keys (
    sha256 character varying(64) NOT NULL,
    id character varying(64) NOT NULL,
    tenant character varying(64) NOT NULL,
    name character varying(100) NOT NULL,
    role character varying(16) NOT NULL,
    created_at double precision NOT NULL,
    expires_at double precision,
    revoked_at double precision
);
CREATE TABLE public.audit_log (
    number integer NOT NULL,
    at double precision NOT NULL,
    actor character varying(64) NOT NULL,
    action character varying(40) NOT NULL,
    tenant character varying(16) NOT NULL,
    subject character varying(100) NOT NULL
);
CREATE SEQUENCE public.audit_log_number_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.audit_log_number_seq OWNED BY public.audit_log.number;
CREATE TABLE public.concept_shares (
    concept character varying(64) NOT NULL,
    shared_with character varying(64) NOT NULL,
    at double precision NOT NULL
);
CREATE TABLE public.deliveries (
    id character varying(64) NOT NULL,
    tenant character varying(64) NOT NULL,
    url character varying(2000) NOT NULL,
    body text NOT NULL,
    attempts integer NOT NULL,
    created_at double precision NOT NULL,
    next_at double precision,
    delivered_at double precision,
    error character varying(500)
);
CREATE TABLE public.erasures (
    concept character varying(64) NOT NULL,
    version integer NOT NULL,
    hashes json NOT NULL,
    asked_at double precision NOT NULL
);
CREATE TABLE public.files (
    number integer NOT NULL,
    id character varying(64) NOT NULL,
    tenant character varying(64) NOT NULL,
    state character varying(16) NOT NULL,
    filename character varying(255) NOT NULL,
    purpose character varying(32) NOT NULL,
    size bigint NOT NULL,
    sha256 character varying(64),
    created_at double precision NOT NULL,
    expires_at double precision,
    lifetime double precision
);
CREATE SEQUENCE public.files_number_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.files_number_seq OWNED BY public.files.number;
CREATE TABLE public.flows (
    tenant character varying(64) NOT NULL,
    weight double precision NOT NULL,
    served double precision NOT NULL
);
CREATE TABLE public.jobs (
    number integer NOT NULL,
    id character varying(64) NOT NULL,
    tenant character varying(64) NOT NULL,
    state character varying(16) NOT NULL,
    model character varying(256) NOT NULL,
    request json NOT NULL,
    weight double precision NOT NULL,
    progress integer NOT NULL,
    attempts integer NOT NULL,
    owner character varying(64),
    lease_until double precision,
    created_at double precision NOT NULL,
    started_at double precision,
    finished_at double precision,
    expires_at double precision,
    timings json NOT NULL,
    neighbours integer,
    error_code character varying(64),
    error_message character varying(2000),
    result_key character varying(256),
    result_sha256 character varying(64),
    result_size integer,
    idempotency_key character varying(255),
    body_sha256 character varying(64),
    webhook_url character varying(2000),
    foundation character varying(64)
);
CREATE TABLE public.jobs_alembic_version (
    version_num character varying(32) NOT NULL
);
CREATE SEQUENCE public.jobs_number_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.jobs_number_seq OWNED BY public.jobs.number;
CREATE TABLE public.pins (
    foundation character varying(64) NOT NULL,
    path character varying(16) NOT NULL,
    sha256 character varying(64) NOT NULL,
    concept character varying(64) NOT NULL,
    version integer NOT NULL,
    pinned boolean NOT NULL,
    revision integer NOT NULL
);
CREATE TABLE public.rates (
    tenant character varying(64) NOT NULL,
    arrival double precision NOT NULL
);
CREATE TABLE public.servers (
    foundation character varying(64) NOT NULL,
    seen double precision NOT NULL
);
CREATE TABLE public.tenants (
    name character varying(64) NOT NULL,
    id character varying(16) NOT NULL,
    created_at double precision NOT NULL,
    erasing_at double precision,
    storage_bytes bigint,
    videos_per_day integer,
    trainings_per_day integer,
    trainings_at_once integer,
    max_priority integer,
    requests_per_minute double precision,
    concurrency integer
);
CREATE TABLE public.training_events (
    number integer NOT NULL,
    training character varying(64) NOT NULL,
    place integer NOT NULL,
    created_at double precision NOT NULL,
    level character varying(8) NOT NULL,
    kind character varying(8) NOT NULL,
    message character varying(2000) NOT NULL,
    data json NOT NULL
);
CREATE SEQUENCE public.training_events_number_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.training_events_number_seq OWNED BY public.training_events.number;
CREATE TABLE public.trainings (
    number integer NOT NULL,
    id character varying(64) NOT NULL,
    tenant character varying(64) NOT NULL,
    state character varying(24) NOT NULL,
    concept character varying(64) NOT NULL,
    foundation character varying(64) NOT NULL,
    request json NOT NULL,
    work json,
    entered boolean NOT NULL,
    settled boolean NOT NULL,
    revision integer NOT NULL,
    owner character varying(64),
    lease_until double precision,
    step integer NOT NULL,
    steps integer,
    loss double precision,
    step_seconds double precision,
    version character varying(128),
    created_at double precision NOT NULL,
    started_at double precision,
    finished_at double precision,
    error_code character varying(64),
    error_message character varying(2000),
    error_param character varying(64),
    idempotency_key character varying(255),
    body_sha256 character varying(64),
    webhook_url character varying(2000)
);
CREATE SEQUENCE public.trainings_number_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.trainings_number_seq OWNED BY public.trainings.number;
CREATE TABLE public.upload_parts (
    number integer NOT NULL,
    id character varying(64) NOT NULL,
    file character varying(64) NOT NULL,
    place integer,
    size bigint NOT NULL,
    sha256 character varying(64) NOT NULL,
    created_at double precision NOT NULL
);
CREATE SEQUENCE public.upload_parts_number_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.upload_parts_number_seq OWNED BY public.upload_parts.number;
CREATE TABLE public.usage (
    job_id character varying(64) NOT NULL,
    tenant character varying(64) NOT NULL,
    kind character varying(16) NOT NULL,
    day character varying(10) NOT NULL,
    model character varying(256) NOT NULL,
    frames integer NOT NULL,
    steps integer NOT NULL,
    device_seconds double precision,
    bytes bigint NOT NULL,
    at double precision NOT NULL
);
ALTER TABLE ONLY public.audit_log ALTER COLUMN number SET DEFAULT nextval('public.audit_log_number_seq'::regclass);
ALTER TABLE ONLY public.files ALTER COLUMN number SET DEFAULT nextval('public.files_number_seq'::regclass);
ALTER TABLE ONLY public.jobs ALTER COLUMN number SET DEFAULT nextval('public.jobs_number_seq'::regclass);
ALTER TABLE ONLY public.training_events ALTER COLUMN number SET DEFAULT nextval('public.training_events_number_seq'::regclass);
ALTER TABLE ONLY public.trainings ALTER COLUMN number SET DEFAULT nextval('public.trainings_number_seq'::regclass);
ALTER TABLE ONLY public.upload_parts ALTER COLUMN number SET DEFAULT nextval('public.upload_parts_number_seq'::regclass);
INSERT INTO public.deliveries VALUES ('evt_c44552b324aa7bef33e3c1b687aee938', 'bob', 'https://example.com/hook', '{"id": "evt_c44552b324aa7bef33e3c1b687aee938", "object": "event", "type": "video.completed", "created_at": 1796132874, "data": {"id": "video_03c0f5fee33cd8b172737d88cb38f5aa", "status": "completed"}}', 0, 1796132874.772928, 1796132874.772928, NULL, NULL);
INSERT INTO public.deliveries VALUES ('evt_1148e2befc07e5172c784da9578496b4', 'bob', 'https://example.com/hook', '{"id": "evt_1148e2befc07e5172c784da9578496b4", "object": "event", "type": "video.failed", "created_at": 1796132874, "data": {"id": "video_69f19458de5bc4ee33b6f0a7dd14e758", "status": "failed"}}', 0, 1796132874.788317, 1796132874.788317, NULL, NULL);
INSERT INTO public.deliveries VALUES ('evt_54a8240af385db997ab2a3b1e9936cda', 'bob', 'https://example.com/hook', '{"id": "evt_54a8240af385db997ab2a3b1e9936cda", "object": "event", "type": "video.cancelled", "created_at": 1796132874, "data": {"id": "video_adc2b479a073a9fa30b8985410e2a977", "status": "cancelled"}}', 0, 1796132874.7924323, 1796132874.7924323, NULL, NULL);
INSERT INTO public.flows VALUES ('bob', 1, 6);
INSERT INTO public.jobs VALUES (1, 'video_ffe7d515843d8c284749b3da07b668eb', 'alice', 'completed', 'tiny:orbit@1', '{"prompt": "a bear, completed", "negative_prompt": "", "frames": 4, "height": 32, "width": 32, "fps": 8, "seed": 1, "steps": 2, "guidance_scale": 1.0, "scheduler": null, "adapters": [{"concept": "orbit", "version": 1, "path": "temporal", "scale": 0.5, "sha256": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}], "tenant": "alice", "priority": 0, "deadline": null}', 1, 100, 0, NULL, NULL, 1796132874.739906, 1796132874.755517, 1796132874.7592368, 4000000000, '{"queue": 0.5, "denoise": 2.0}', 1, NULL, NULL, 'video_ffe7d515843d8c284749b3da07b668eb.mp4', 'cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc', 3, NULL, NULL, NULL, NULL);
INSERT INTO public.jobs VALUES (2, 'video_03c0f5fee33cd8b172737d88cb38f5aa', 'bob', 'completed', 'tiny:orbit@1', '{"prompt": "a bear, completed", "negative_prompt": "", "frames": 4, "height": 32, "width": 32, "fps": 8, "seed": 1, "steps": 2, "guidance_scale": 1.0, "scheduler": null, "adapters": [{"concept": "orbit", "version": 1, "path": "temporal", "scale": 0.5, "sha256": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}], "tenant": "bob", "priority": 0, "deadline": null, "foundation": "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff"}', 1, 100, 0, NULL, NULL, 1796132874.7634413, 1796132874.7696187, 1796132874.771435, 4000000000, '{"queue": 0.5, "denoise": 2.0}', 1, NULL, NULL, 'video_03c0f5fee33cd8b172737d88cb38f5aa.mp4', 'cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc', 3, 'key-completed', 'bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb', 'https://example.com/hook', 'ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff');
INSERT INTO public.jobs VALUES (4, 'video_69f19458de5bc4ee33b6f0a7dd14e758', 'bob', 'failed', 'tiny:orbit@1', '{"prompt": "a bear, failed", "negative_prompt": "", "frames": 4, "height": 32, "width": 32, "fps": 8, "seed": 1, "steps": 2, "guidance_scale": 1.0, "scheduler": null, "adapters": [{"concept": "orbit", "version": 1, "path": "temporal", "scale": 0.5, "sha256": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}], "tenant": "bob", "priority": 0, "deadline": null, "foundation": "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff"}', 1, 50, 0, NULL, NULL, 1796132874.7818646, 1796132874.786047, 1796132874.7875676, NULL, '{"queue": 0.5}', NULL, 'out_of_memory', 'it does not fit', NULL, NULL, NULL, 'key-failed', 'bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb', 'https://example.com/hook', 'ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff');
INSERT INTO public.jobs VALUES (3, 'video_579e1f1a84fb5759b346f912db90f960', 'alice', 'failed', 'tiny:orbit@1', '{"prompt": "a bear, failed", "negative_prompt": "", "frames": 4, "height": 32, "width": 32, "fps": 8, "seed": 1, "steps": 2, "guidance_scale": 1.0, "scheduler": null, "adapters": [{"concept": "orbit", "version": 1, "path": "temporal", "scale": 0.5, "sha256": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}], "tenant": "alice", "priority": 0, "deadline": null}', 1, 50, 0, NULL, NULL, 1796132874.774216, 1796132874.7786548, 1796132874.7803178, NULL, '{"queue": 0.5}', NULL, 'out_of_memory', 'it does not fit', NULL, NULL, NULL, NULL, NULL, NULL, NULL);
INSERT INTO public.jobs VALUES (5, 'video_f8ee22d55ef00edd2f97a1afc0cc49ff', 'alice', 'cancelled', 'tiny:orbit@1', '{"prompt": "a bear, cancelled", "negative_prompt": "", "frames": 4, "height": 32, "width": 32, "fps": 8, "seed": 1, "steps": 2, "guidance_scale": 1.0, "scheduler": null, "adapters": [{"concept": "orbit", "version": 1, "path": "temporal", "scale": 0.5, "sha256": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}], "tenant": "alice", "priority": 0, "deadline": null}', 1, 0, 0, NULL, NULL, 1796132874.7888253, NULL, 1796132874.7894268, NULL, '{}', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
INSERT INTO public.jobs VALUES (6, 'video_adc2b479a073a9fa30b8985410e2a977', 'bob', 'cancelled', 'tiny:orbit@1', '{"prompt": "a bear, cancelled", "negative_prompt": "", "frames": 4, "height": 32, "width": 32, "fps": 8, "seed": 1, "steps": 2, "guidance_scale": 1.0, "scheduler": null, "adapters": [{"concept": "orbit", "version": 1, "path": "temporal", "scale": 0.5, "sha256": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}], "tenant": "bob", "priority": 0, "deadline": null, "foundation": "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff"}', 1, 0, 0, NULL, NULL, 1796132874.7908804, NULL, 1796132874.7915182, NULL, '{}', NULL, NULL, NULL, NULL, NULL, NULL, 'key-cancelled', 'bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb', 'https://example.com/hook', 'ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff');
INSERT INTO public.jobs VALUES (7, 'video_95c08d56acf610e2a3cb16fc46349d67', 'alice', 'in_progress', 'tiny:orbit@1', '{"prompt": "a bear, in_progress", "negative_prompt": "", "frames": 4, "height": 32, "width": 32, "fps": 8, "seed": 1, "steps": 2, "guidance_scale": 1.0, "scheduler": null, "adapters": [{"concept": "orbit", "version": 1, "path": "temporal", "scale": 0.5, "sha256": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}], "tenant": "alice", "priority": 0, "deadline": null}', 1, 50, 0, 'host-1', 1796136474.795394, 1796132874.7929, 1796132874.796883, NULL, NULL, '{"queue": 0.5}', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
INSERT INTO public.jobs VALUES (8, 'video_1a600783a9ee01e247900b994805a9dc', 'bob', 'in_progress', 'tiny:orbit@1', '{"prompt": "a bear, in_progress", "negative_prompt": "", "frames": 4, "height": 32, "width": 32, "fps": 8, "seed": 1, "steps": 2, "guidance_scale": 1.0, "scheduler": null, "adapters": [{"concept": "orbit", "version": 1, "path": "temporal", "scale": 0.5, "sha256": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}], "tenant": "bob", "priority": 0, "deadline": null, "foundation": "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff"}', 1, 50, 0, 'host-1', 1796136474.800824, 1796132874.7984056, 1796132874.8022146, NULL, NULL, '{"queue": 0.5}', NULL, NULL, NULL, NULL, NULL, NULL, 'key-in_progress', 'bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb', 'https://example.com/hook', 'ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff');
INSERT INTO public.jobs VALUES (9, 'video_3774b77882dc3dc71b7b8920b0fe216c', 'alice', 'queued', 'tiny:orbit@1', '{"prompt": "a bear, queued", "negative_prompt": "", "frames": 4, "height": 32, "width": 32, "fps": 8, "seed": 1, "steps": 2, "guidance_scale": 1.0, "scheduler": null, "adapters": [{"concept": "orbit", "version": 1, "path": "temporal", "scale": 0.5, "sha256": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}], "tenant": "alice", "priority": 0, "deadline": null}', 1, 0, 0, NULL, NULL, 1796132874.8037167, NULL, NULL, NULL, '{}', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
INSERT INTO public.jobs VALUES (10, 'video_10ce68df93d1dec03917ba159305909c', 'bob', 'queued', 'tiny:orbit@1', '{"prompt": "a bear, queued", "negative_prompt": "", "frames": 4, "height": 32, "width": 32, "fps": 8, "seed": 1, "steps": 2, "guidance_scale": 1.0, "scheduler": null, "adapters": [{"concept": "orbit", "version": 1, "path": "temporal", "scale": 0.5, "sha256": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}], "tenant": "bob", "priority": 0, "deadline": null, "foundation": "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff"}', 1, 0, 0, NULL, NULL, 1796132874.804355, NULL, NULL, NULL, '{}', NULL, NULL, NULL, NULL, NULL, NULL, 'key-queued', 'bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb', 'https://example.com/hook', 'ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff');
INSERT INTO public.jobs_alembic_version VALUES ('0008');
INSERT INTO public.pins VALUES ('ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff', 'temporal', 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa', 'orbit', 1, true, 1);
INSERT INTO public.rates VALUES ('alice', 1700000000.5);
INSERT INTO public.servers VALUES ('ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff', 1700000000.5);
INSERT INTO public.usage VALUES ('video_ffe7d515843d8c284749b3da07b668eb', 'alice', 'video', '2026-12-01', 'tiny:orbit@1', 4, 2, NULL, 3, 1796132874.7612457);
INSERT INTO public.usage VALUES ('video_03c0f5fee33cd8b172737d88cb38f5aa', 'bob', 'video', '2026-12-01', 'tiny:orbit@1', 4, 2, NULL, 3, 1796132874.77236);
SELECT pg_catalog.setval('public.audit_log_number_seq', 1, false);
SELECT pg_catalog.setval('public.files_number_seq', 1, false);
SELECT pg_catalog.setval('public.jobs_number_seq', 10, true);
SELECT pg_catalog.setval('public.training_events_number_seq', 1, false);
SELECT pg_catalog.setval('public.trainings_number_seq', 1, false);
SELECT pg_catalog.setval('public.upload_parts_number_seq', 1, false);
ALTER TABLE ONLY public.api_keys
    ADD CONSTRAINT api_keys_id_key UNIQUE (id);
ALTER TABLE ONLY public.api_keys
    ADD CONSTRAINT api_keys_pkey PRIMARY KEY (sha256);
ALTER TABLE ONLY public.audit_log
    ADD CONSTRAINT audit_log_pkey PRIMARY KEY (number);
ALTER TABLE ONLY public.concept_shares
    ADD CONSTRAINT concept_shares_pkey PRIMARY KEY (concept, shared_with);
ALTER TABLE ONLY public.deliveries
    ADD CONSTRAINT deliveries_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.erasures
    ADD CONSTRAINT erasures_pkey PRIMARY KEY (concept, version);
ALTER TABLE ONLY public.files
    ADD CONSTRAINT files_id_key UNIQUE (id);
ALTER TABLE ONLY public.files
    ADD CONSTRAINT files_pkey PRIMARY KEY (number);
ALTER TABLE ONLY public.flows
    ADD CONSTRAINT flows_pkey PRIMARY KEY (tenant, weight);
ALTER TABLE ONLY public.jobs_alembic_version
    ADD CONSTRAINT jobs_alembic_version_pkc PRIMARY KEY (version_num);
ALTER TABLE ONLY public.jobs
    ADD CONSTRAINT jobs_id_key UNIQUE (id);
ALTER TABLE ONLY public.jobs
    ADD CONSTRAINT jobs_pkey PRIMARY KEY (number);
ALTER TABLE ONLY public.jobs
    ADD CONSTRAINT jobs_tenant_idempotency_key_key UNIQUE (tenant, idempotency_key);
ALTER TABLE ONLY public.pins
    ADD CONSTRAINT pins_pkey PRIMARY KEY (foundation, path, sha256);
ALTER TABLE ONLY public.rates
    ADD CONSTRAINT rates_pkey PRIMARY KEY (tenant);
ALTER TABLE ONLY public.servers
    ADD CONSTRAINT servers_pkey PRIMARY KEY (foundation);
ALTER TABLE ONLY public.tenants
    ADD CONSTRAINT tenants_id_key UNIQUE (id);
ALTER TABLE ONLY public.tenants
    ADD CONSTRAINT tenants_pkey PRIMARY KEY (name);
ALTER TABLE ONLY public.training_events
    ADD CONSTRAINT training_events_pkey PRIMARY KEY (number);
ALTER TABLE ONLY public.trainings
    ADD CONSTRAINT trainings_id_key UNIQUE (id);
ALTER TABLE ONLY public.trainings
    ADD CONSTRAINT trainings_pkey PRIMARY KEY (number);
ALTER TABLE ONLY public.trainings
    ADD CONSTRAINT trainings_tenant_idempotency_key_key UNIQUE (tenant, idempotency_key);
ALTER TABLE ONLY public.upload_parts
    ADD CONSTRAINT upload_parts_file_place_key UNIQUE (file, place);
ALTER TABLE ONLY public.upload_parts
    ADD CONSTRAINT upload_parts_id_key UNIQUE (id);
ALTER TABLE ONLY public.upload_parts
    ADD CONSTRAINT upload_parts_pkey PRIMARY KEY (number);
ALTER TABLE ONLY public.usage
    ADD CONSTRAINT usage_pkey PRIMARY KEY (job_id);
CREATE INDEX ix_api_keys_tenant ON public.api_keys USING btree (tenant);
CREATE INDEX ix_concept_shares_shared_with ON public.concept_shares USING btree (shared_with);
CREATE INDEX ix_deliveries_next_at ON public.deliveries USING btree (next_at);
CREATE INDEX ix_files_expires_at ON public.files USING btree (expires_at);
CREATE INDEX ix_files_state ON public.files USING btree (state);
CREATE INDEX ix_files_tenant ON public.files USING btree (tenant);
CREATE INDEX ix_jobs_expires_at ON public.jobs USING btree (expires_at);
CREATE INDEX ix_jobs_owner ON public.jobs USING btree (owner);
CREATE INDEX ix_jobs_state ON public.jobs USING btree (state);
CREATE INDEX ix_jobs_tenant ON public.jobs USING btree (tenant);
CREATE INDEX ix_training_events_training ON public.training_events USING btree (training);
CREATE INDEX ix_trainings_concept ON public.trainings USING btree (concept);
CREATE INDEX ix_trainings_finished_at ON public.trainings USING btree (finished_at);
CREATE INDEX ix_trainings_settled ON public.trainings USING btree (settled);
CREATE INDEX ix_trainings_state ON public.trainings USING btree (state);
CREATE INDEX ix_trainings_tenant ON public.trainings USING btree (tenant);
CREATE INDEX ix_upload_parts_file ON public.upload_parts USING btree (file);
CREATE INDEX ix_usage_day ON public.usage USING btree (day);
CREATE INDEX ix_usage_tenant ON public.usage USING btree (tenant);
CREATE TRIGGER audit_log_append_only BEFORE DELETE OR UPDATE OR TRUNCATE ON public.audit_log FOR EACH STATEMENT EXECUTE FUNCTION public.audit_log_refuse();
