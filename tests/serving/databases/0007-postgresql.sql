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
ALTER TABLE ONLY public.jobs ALTER COLUMN number SET DEFAULT nextval('public.jobs_number_seq'::regclass);
INSERT INTO public.deliveries VALUES ('evt_618fe722fe60c750fc5e378f53169ff0', 'bob', 'https://example.com/hook', '{"id": "evt_618fe722fe60c750fc5e378f53169ff0", "object": "event", "type": "video.completed", "created_at": 1796132940, "data": {"id": "video_d1362fe34f2ecafc6634f01d4f77e332", "status": "completed"}}', 0, 1796132940.558032, 1796132940.558032, NULL, NULL);
INSERT INTO public.deliveries VALUES ('evt_c6d2d8699f0204ce4b7bcbf564c85fa1', 'bob', 'https://example.com/hook', '{"id": "evt_c6d2d8699f0204ce4b7bcbf564c85fa1", "object": "event", "type": "video.failed", "created_at": 1796132940, "data": {"id": "video_095f84a0101c63c8ffeb1036bcb3c66c", "status": "failed"}}', 0, 1796132940.5775237, 1796132940.5775237, NULL, NULL);
INSERT INTO public.deliveries VALUES ('evt_4017948bc2b93c0eae5249cbae81f854', 'bob', 'https://example.com/hook', '{"id": "evt_4017948bc2b93c0eae5249cbae81f854", "object": "event", "type": "video.cancelled", "created_at": 1796132940, "data": {"id": "video_f361dec4674ce7da92388b06b2944d59", "status": "cancelled"}}', 0, 1796132940.581846, 1796132940.581846, NULL, NULL);
INSERT INTO public.flows VALUES ('bob', 1, 6);
INSERT INTO public.jobs VALUES (1, 'video_5e22f61aae802ca5a1d6e2ac25973258', 'alice', 'completed', 'tiny:orbit@1', '{"prompt": "a bear, completed", "negative_prompt": "", "frames": 4, "height": 32, "width": 32, "fps": 8, "seed": 1, "steps": 2, "guidance_scale": 1.0, "scheduler": null, "adapters": [{"concept": "orbit", "version": 1, "path": "temporal", "scale": 0.5, "sha256": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}], "tenant": "alice", "priority": 0, "deadline": null}', 1, 100, 0, NULL, NULL, 1796132940.521985, 1796132940.5396209, 1796132940.5431721, 4000000000, '{"queue": 0.5, "denoise": 2.0}', 1, NULL, NULL, 'video_5e22f61aae802ca5a1d6e2ac25973258.mp4', 'cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc', 3, NULL, NULL, NULL, NULL);
INSERT INTO public.jobs VALUES (2, 'video_d1362fe34f2ecafc6634f01d4f77e332', 'bob', 'completed', 'tiny:orbit@1', '{"prompt": "a bear, completed", "negative_prompt": "", "frames": 4, "height": 32, "width": 32, "fps": 8, "seed": 1, "steps": 2, "guidance_scale": 1.0, "scheduler": null, "adapters": [{"concept": "orbit", "version": 1, "path": "temporal", "scale": 0.5, "sha256": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}], "tenant": "bob", "priority": 0, "deadline": null, "foundation": "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff"}', 1, 100, 0, NULL, NULL, 1796132940.5479107, 1796132940.554386, 1796132940.5564208, 4000000000, '{"queue": 0.5, "denoise": 2.0}', 1, NULL, NULL, 'video_d1362fe34f2ecafc6634f01d4f77e332.mp4', 'cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc', 3, 'key-completed', 'bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb', 'https://example.com/hook', 'ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff');
INSERT INTO public.jobs VALUES (4, 'video_095f84a0101c63c8ffeb1036bcb3c66c', 'bob', 'failed', 'tiny:orbit@1', '{"prompt": "a bear, failed", "negative_prompt": "", "frames": 4, "height": 32, "width": 32, "fps": 8, "seed": 1, "steps": 2, "guidance_scale": 1.0, "scheduler": null, "adapters": [{"concept": "orbit", "version": 1, "path": "temporal", "scale": 0.5, "sha256": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}], "tenant": "bob", "priority": 0, "deadline": null, "foundation": "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff"}', 1, 50, 0, NULL, NULL, 1796132940.5690613, 1796132940.5742986, 1796132940.5766175, NULL, '{"queue": 0.5}', NULL, 'out_of_memory', 'it does not fit', NULL, NULL, NULL, 'key-failed', 'bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb', 'https://example.com/hook', 'ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff');
INSERT INTO public.jobs VALUES (3, 'video_295ae265d8a9a5e2b3f30f1b2a1a7bef', 'alice', 'failed', 'tiny:orbit@1', '{"prompt": "a bear, failed", "negative_prompt": "", "frames": 4, "height": 32, "width": 32, "fps": 8, "seed": 1, "steps": 2, "guidance_scale": 1.0, "scheduler": null, "adapters": [{"concept": "orbit", "version": 1, "path": "temporal", "scale": 0.5, "sha256": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}], "tenant": "alice", "priority": 0, "deadline": null}', 1, 50, 0, NULL, NULL, 1796132940.5596197, 1796132940.5648944, 1796132940.5669396, NULL, '{"queue": 0.5}', NULL, 'out_of_memory', 'it does not fit', NULL, NULL, NULL, NULL, NULL, NULL, NULL);
INSERT INTO public.jobs VALUES (5, 'video_147a90949d5622f33d17b59ff41dfc36', 'alice', 'cancelled', 'tiny:orbit@1', '{"prompt": "a bear, cancelled", "negative_prompt": "", "frames": 4, "height": 32, "width": 32, "fps": 8, "seed": 1, "steps": 2, "guidance_scale": 1.0, "scheduler": null, "adapters": [{"concept": "orbit", "version": 1, "path": "temporal", "scale": 0.5, "sha256": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}], "tenant": "alice", "priority": 0, "deadline": null}', 1, 0, 0, NULL, NULL, 1796132940.5781512, NULL, 1796132940.5787985, NULL, '{}', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
INSERT INTO public.jobs VALUES (6, 'video_f361dec4674ce7da92388b06b2944d59', 'bob', 'cancelled', 'tiny:orbit@1', '{"prompt": "a bear, cancelled", "negative_prompt": "", "frames": 4, "height": 32, "width": 32, "fps": 8, "seed": 1, "steps": 2, "guidance_scale": 1.0, "scheduler": null, "adapters": [{"concept": "orbit", "version": 1, "path": "temporal", "scale": 0.5, "sha256": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}], "tenant": "bob", "priority": 0, "deadline": null, "foundation": "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff"}', 1, 0, 0, NULL, NULL, 1796132940.5804508, NULL, 1796132940.5811307, NULL, '{}', NULL, NULL, NULL, NULL, NULL, NULL, 'key-cancelled', 'bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb', 'https://example.com/hook', 'ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff');
INSERT INTO public.jobs VALUES (7, 'video_38082232d712fd9e46b00138b9655891', 'alice', 'in_progress', 'tiny:orbit@1', '{"prompt": "a bear, in_progress", "negative_prompt": "", "frames": 4, "height": 32, "width": 32, "fps": 8, "seed": 1, "steps": 2, "guidance_scale": 1.0, "scheduler": null, "adapters": [{"concept": "orbit", "version": 1, "path": "temporal", "scale": 0.5, "sha256": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}], "tenant": "alice", "priority": 0, "deadline": null}', 1, 50, 0, 'host-1', 1796136540.58511, 1796132940.582304, 1796132940.5865805, NULL, NULL, '{"queue": 0.5}', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
INSERT INTO public.jobs VALUES (8, 'video_eeae620cc5706b76af92f66e3eff3d35', 'bob', 'in_progress', 'tiny:orbit@1', '{"prompt": "a bear, in_progress", "negative_prompt": "", "frames": 4, "height": 32, "width": 32, "fps": 8, "seed": 1, "steps": 2, "guidance_scale": 1.0, "scheduler": null, "adapters": [{"concept": "orbit", "version": 1, "path": "temporal", "scale": 0.5, "sha256": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}], "tenant": "bob", "priority": 0, "deadline": null, "foundation": "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff"}', 1, 50, 0, 'host-1', 1796136540.591102, 1796132940.5882409, 1796132940.59293, NULL, NULL, '{"queue": 0.5}', NULL, NULL, NULL, NULL, NULL, NULL, 'key-in_progress', 'bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb', 'https://example.com/hook', 'ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff');
INSERT INTO public.jobs VALUES (9, 'video_587a9e38ad76539a247a2dbc5d6c5477', 'alice', 'queued', 'tiny:orbit@1', '{"prompt": "a bear, queued", "negative_prompt": "", "frames": 4, "height": 32, "width": 32, "fps": 8, "seed": 1, "steps": 2, "guidance_scale": 1.0, "scheduler": null, "adapters": [{"concept": "orbit", "version": 1, "path": "temporal", "scale": 0.5, "sha256": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}], "tenant": "alice", "priority": 0, "deadline": null}', 1, 0, 0, NULL, NULL, 1796132940.5947785, NULL, NULL, NULL, '{}', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
INSERT INTO public.jobs VALUES (10, 'video_9920671370af8ca635d994e7e00481dc', 'bob', 'queued', 'tiny:orbit@1', '{"prompt": "a bear, queued", "negative_prompt": "", "frames": 4, "height": 32, "width": 32, "fps": 8, "seed": 1, "steps": 2, "guidance_scale": 1.0, "scheduler": null, "adapters": [{"concept": "orbit", "version": 1, "path": "temporal", "scale": 0.5, "sha256": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}], "tenant": "bob", "priority": 0, "deadline": null, "foundation": "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff"}', 1, 0, 0, NULL, NULL, 1796132940.5954275, NULL, NULL, NULL, '{}', NULL, NULL, NULL, NULL, NULL, NULL, 'key-queued', 'bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb', 'https://example.com/hook', 'ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff');
INSERT INTO public.jobs_alembic_version VALUES ('0007');
INSERT INTO public.pins VALUES ('ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff', 'temporal', 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa', 'orbit', 1, true, 1);
INSERT INTO public.rates VALUES ('alice', 1700000000.5);
INSERT INTO public.servers VALUES ('ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff', 1700000000.5);
INSERT INTO public.usage VALUES ('video_5e22f61aae802ca5a1d6e2ac25973258', 'alice', 'video', '2026-12-01', 'tiny:orbit@1', 4, 2, NULL, 3, 1796132940.5455427);
INSERT INTO public.usage VALUES ('video_d1362fe34f2ecafc6634f01d4f77e332', 'bob', 'video', '2026-12-01', 'tiny:orbit@1', 4, 2, NULL, 3, 1796132940.557403);
SELECT pg_catalog.setval('public.audit_log_number_seq', 1, false);
SELECT pg_catalog.setval('public.jobs_number_seq', 10, true);
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
ALTER TABLE ONLY public.usage
    ADD CONSTRAINT usage_pkey PRIMARY KEY (job_id);
CREATE INDEX ix_api_keys_tenant ON public.api_keys USING btree (tenant);
CREATE INDEX ix_concept_shares_shared_with ON public.concept_shares USING btree (shared_with);
CREATE INDEX ix_deliveries_next_at ON public.deliveries USING btree (next_at);
CREATE INDEX ix_jobs_expires_at ON public.jobs USING btree (expires_at);
CREATE INDEX ix_jobs_owner ON public.jobs USING btree (owner);
CREATE INDEX ix_jobs_state ON public.jobs USING btree (state);
CREATE INDEX ix_jobs_tenant ON public.jobs USING btree (tenant);
CREATE INDEX ix_usage_day ON public.usage USING btree (day);
CREATE INDEX ix_usage_tenant ON public.usage USING btree (tenant);
CREATE TRIGGER audit_log_append_only BEFORE DELETE OR UPDATE OR TRUNCATE ON public.audit_log FOR EACH STATEMENT EXECUTE FUNCTION public.audit_log_refuse();
